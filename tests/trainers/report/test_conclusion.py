from trainers.report.conclusion import conclude


def source(auroc, softmax, width=0.02, refused=None):
    effect = None if auroc is None else {"interval": [auroc - width / 2, auroc + width / 2]}
    fpr = None if auroc is None else 2 - 2 * auroc if refused is None else 1 - refused
    return {
        "auroc": auroc,
        "n": 9,
        "fpr_at_95_tpr": fpr,
        "effect_size": effect,
        "baselines": {"max_softmax": {"auroc": softmax}},
    }


def metrics(**sources):
    return {"sources": sources, "calibration": {"false_alarm_rate": {"0.05": 0.047}}}


def test_the_headline_sorts_sources_by_how_well_they_are_caught():
    found = conclude(
        metrics(
            **{
                "errors": source(0.8, 0.9),
                "adversarial/bim": source(0.97, 0.03),
                "ood/mnist": source(0.99, 0.9),
                "ood/tiny_imagenet": source(0.6, 0.7),
            }
        )
    )
    assert found.headline == (
        "The detector catches mnist images and bim attacks, but only part of the test errors, "
        "and misses most tiny imagenet images."
    )


def test_what_is_ranked_well_but_accepted_is_not_caught():
    found = conclude(
        metrics(**{"ood/noise": source(0.95, 0.6, refused=0.29), "ood/mnist": source(0.93, 0.9, refused=0.9)})
    )
    assert found.headline == "The detector catches mnist images, and misses most noise images."


def test_it_says_where_softmax_is_the_better_choice():
    found = conclude(metrics(**{"errors": source(0.856, 0.902), "ood/mnist": source(0.99, 0.9)}))
    assert "on 1 of 2 sources (mean AUROC 92.3 against 90.1)" in found.sentences[0]
    assert "Softmax is the better choice on test errors (90.2 against our 85.6)." in found.sentences[0]
    assert found.sentences[1] == "Asked to refuse 5 % of clean images, it refused 4.7 % of the clean test images."


def test_it_does_not_boast_where_it_is_never_worse():
    found = conclude(metrics(**{"ood/mnist": source(0.99, 0.9)}))
    assert found.headline == "The detector catches mnist images."
    assert found.sentences[0].endswith("on 1 of 1 source (mean AUROC 99.0 against 90.0) and worse on none.")


def test_a_detector_that_catches_nothing_is_said_to():
    found = conclude(metrics(**{"errors": source(0.5, 0.9), "ood/a": source(0.75, 0.9)}))
    assert found.headline == "The detector catches only part of the a images, and misses most test errors."
    assert conclude(metrics(errors=source(0.5, 0.9))).headline == "The detector misses most test errors."


def test_a_handful_of_failures_is_no_evidence():
    found = conclude(metrics(**{"errors": source(0.8, 0.7), "adversarial/fgsm": source(0.99, 0.5, width=0.5)}))
    assert found.headline == "The detector catches only part of the test errors."
    assert "Too few failures for a conclusion: fgsm attack (n = 9)." in found.sentences
    only = conclude(metrics(errors=source(0.99, 0.5, width=0.5)))
    assert only.headline == "There were too few failures for a conclusion."


def test_sources_without_failures_are_named():
    found = conclude(metrics(**{"errors": source(None, None), "ood/mnist": source(0.99, 0.9)}))
    assert "Not measured, for want of failures: test errors." in found.sentences
    assert conclude(metrics(errors=source(None, None))).headline == "There were no failures to catch."


def test_long_lists_are_cut_short():
    found = conclude(metrics(**{f"ood/{letter}": source(0.95, 0.9) for letter in "abcdef"}))
    assert found.headline == "The detector catches a images, b images, c images and 3 more."


def test_the_rate_that_is_usual_with_so_few_calibration_images_stands_beside_the_realised_one():
    found = metrics()
    found["calibration"] |= {"n": 240, "realised_rate": {"0.05": [0.026, 0.081]}}
    said = " ".join(conclude(found).sentences)
    assert "it refused 4.7 % of the clean test images; 2.6 to 8.1\u00a0% are usual with 240 calibration images." in said
