import pytest

from gmm_torch.conformal.p_values import realised_rate
from trainers.report.conclusion import conclude


def source(auroc, softmax, width=0.02, refused=None):
    def around(value):
        return None if auroc is None else {"interval": [value() - width / 2, value() + width / 2]}

    fpr = None if auroc is None else 2 - 2 * auroc if refused is None else 1 - refused
    return {
        "auroc": auroc,
        "n": 9,
        "fpr_at_95_tpr": fpr,
        "effect_size": around(lambda: auroc),
        "auroc_difference": around(lambda: auroc - softmax),
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
    assert "on 1 of 2 sources and worse on 1. " in found.sentences[0]
    assert "Softmax is the better choice on test errors (90.2 against our 85.6)." in found.sentences[0]
    assert (
        found.sentences[1] == "Asked to refuse at most 5 % of clean images, it refused 4.7 % of the clean test images."
    )


def test_it_does_not_boast_where_it_is_never_worse():
    found = conclude(metrics(**{"ood/mnist": source(0.99, 0.9)}))
    assert found.headline == "The detector catches mnist images."
    assert found.sentences[0].endswith("on 1 of 1 source and worse on none.")


def test_a_difference_that_may_be_chance_counts_for_neither():
    found = conclude(
        metrics(**{"errors": source(0.955, 0.961), "ood/a": source(0.965, 0.961), "ood/b": source(1, 0.9)})
    )
    assert (
        "better than plain softmax confidence on 1 of 3 sources and worse on none; on 2 the two can't be told apart"
        in found.sentences[0]
    )
    assert "better choice" not in found.sentences[0]


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
    more = conclude(metrics(**{f"ood/{letter}": source(0.99, 0.9) for letter in "abcd"}) | corrupted())
    assert more.headline == "The detector catches a images, errors on corrupted images, b images and 2 more."


@pytest.mark.parametrize(("k", "usual"), [(15, "1.9 to 8.8"), (9, "0.9 to 5.9")])  # as marginal, as conditional
def test_the_rate_that_is_usual_with_so_few_images_of_either_kind_stands_beside_the_realised_one(k, usual):
    found = metrics(errors=source(0.8, 0.9) | {"n_good": 311})
    found["calibration"] |= {"n": 300, "realised_rate": {"0.05": list(realised_rate(k, 300))}}
    said = " ".join(conclude(found).sentences)
    assert (
        f"it refused 4.7 % of the clean test images; {usual}\u00a0% are usual with 320 test images and 300 calibration "
        "images." in said
    )


def corrupted(accepted=0.1, n=200, error_rate=0.5, auroc=0.8):
    """Two corruptions in two severities, and the images as they are."""
    point = {
        "n": n, "error_rate": error_rate, "coverage": 0.6, "risk": 0.25, "auroc": auroc,
        "fpr_at_95_clean_tpr": accepted if error_rate else None, "baselines": {"max_softmax": {"auroc": 0.9}},
    }  # fmt: skip
    clean = {**point, "error_rate": 0.05, "risk": 0.02}
    return {"corruptions": {"clean": clean, "kinds": {"fog": [point] * 2, "snow": [point] * 2}}}


def test_corrupted_images_are_spoken_of_in_the_headline_and_in_numbers():
    found = metrics(**{"errors": source(0.8, 0.9), "ood/mnist": source(0.99, 0.9)})
    caught = conclude(found | corrupted(accepted=0.1))
    assert caught.headline == (
        "The detector catches mnist images and errors on corrupted images, but only part of the test errors."
    )
    assert "on 1 of 2 sources" in caught.sentences[0]  # those of the table
    assert caught.sentences[1] == (
        "Of the predictions on corrupted images (2 kinds) 50.0 % are wrong, of the 60.0 % that are accepted 25.0 %; on "
        "the same images as they are 5.0 and 2.0 %. Errors among them are ranked with an AUROC of 80.0, by softmax "
        "with 90.0."
    )
    missed = conclude(found | corrupted(accepted=0.9)).headline
    assert missed.endswith("and misses most errors on corrupted images.")
    assert (
        conclude({**found, "sources": {}} | corrupted()).headline == "The detector catches errors on corrupted images."
    )


def test_few_errors_on_corrupted_images_are_no_evidence_and_none_are_no_source():
    few = conclude(metrics(errors=source(0.8, 0.9)) | corrupted(n=20))
    assert few.headline == "The detector catches only part of the test errors."
    assert "Too few failures for a conclusion: errors on corrupted images (n = 10)." in few.sentences
    none = conclude(metrics(errors=source(None, None)) | corrupted(error_rate=0, auroc=None))
    assert none.headline == "There were no failures to catch."
    assert "Not measured, for want of failures: test errors and errors on corrupted images." in none.sentences
    all_wrong = conclude(metrics() | corrupted(error_rate=1, auroc=None))  # no right one to rank them against
    assert all_wrong.headline == "The detector catches errors on corrupted images."


def test_images_from_elsewhere_and_growing_budgets_are_spoken_of():
    plain, weighted = ({"false_alarm_rate": rate} for rate in (0.25, 0.04))
    rows = [{"plain": plain, "weighted": weighted}] * 2 + [{"plain": {"false_alarm_rate": 0.5}, "weighted": {}}]
    more = {
        "shifts": {"alpha": 0.1, "rows": rows},
        "sweeps": {"pgd_sweep": [{"evasion_rate": rate, "epsilon": rate / 2.55} for rate in (0.01, 0.02)]},
    }
    said = conclude(metrics(errors=source(0.8, 0.9)) | more).sentences
    assert (
        "On images from elsewhere (2 sets) 25.0 to 50.0 % are refused where at most 10 % would be here; with weights "
        "4.0 %; for 1 of them weights can promise nothing." in said
    )
    assert (
        "Of images attacked at growing budgets up to 2.0 % end up wrong and accepted (pgd sweep attack at 2/255)."
        in said
    )
