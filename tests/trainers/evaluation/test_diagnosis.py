from trainers.evaluation.diagnosis import softmax_wins


def source(ours, softmax, width=0.002):
    difference = None if ours is None or softmax is None else ours - softmax
    interval = None if difference is None else {"interval": [difference - width / 2, difference + width / 2]}
    baselines = {} if softmax is None else {"max_softmax": {"auroc": softmax}}
    return {"auroc": ours, "auroc_difference": interval, "baselines": baselines}


def test_the_softmax_wins_where_the_interval_of_the_difference_says_so():
    sources = {
        "errors": source(0.955, 0.961),
        "adversarial/fgsm": source(0.99, 0.9),
        "ood/noise": source(0.95, 0.97, width=0.05),
        "ood/mnist": source(0.9, None),
        "ood/none": source(None, None),
    }
    (finding,) = softmax_wins(sources)
    assert finding.section == "the-softmax-wins"
    assert finding.text.endswith("on 1 of 5 sources: test errors (96.1 % against 95.5 %)")
    del sources["errors"]
    assert softmax_wins(sources) == []
