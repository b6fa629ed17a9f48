from trainers.evaluation.diagnosis import softmax_wins


def source(ours, softmax):
    return {"auroc": ours, "baselines": {} if softmax is None else {"max_softmax": {"auroc": softmax}}}


def test_the_softmax_wins_where_it_is_higher_by_what_the_table_shows():
    sources = {
        "errors": source(0.955, 0.961),
        "adversarial/fgsm": source(0.99, 0.9),
        "ood/noise": source(0.95, 0.9501),
        "ood/mnist": source(0.9, None),
        "ood/none": source(None, None),
    }
    (finding,) = softmax_wins(sources)
    assert finding.section == "the-softmax-wins"
    assert finding.text.endswith("on 1 of 5 sources: test errors (96.1 % against 95.5 %)")
    del sources["errors"]
    assert softmax_wins(sources) == []
