"""What each suite is judged by, on predictions whose answers are computed another way."""

import json
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vim_train.config.errors import UserError
from vim_train.data.sources.classes import imagenet_wnids
from vim_train.tasks.eval_results import Judged, by_suite, judge
from vim_train.tasks.metrics import calibration
from vim_train.tasks.metrics.corruptions import ALEXNET
from vim_train.tasks.metrics.imagenet import real_labels, variant_classes
from vim_train.tasks.predictions import Predictions

WNIDS = imagenet_wnids()
PLACE = {name: label for label, name in enumerate(WNIDS)}


def some(
    suite: str, images: int, classes: Sequence[str] = WNIDS[:20], pool: Sequence[int] | None = None
) -> Predictions:
    """Predictions that are right often; each suite's are its own."""
    generator = np.random.default_rng([ord(letter) for letter in suite])
    labels = generator.choice(len(classes) if pool is None else np.asarray(pool), images)
    logits = generator.normal(size=(images, len(classes))).astype(np.float32)
    logits[np.arange(images), labels] += 2
    names = [f"{classes[label]}/{suite}_{i:05d}.JPEG" for i, label in enumerate(labels)]
    return Predictions(suite, names, labels, logits, list(classes))


def record_of(judged: list[Judged], suite: str) -> dict:
    [row] = [row for row in judged if row.suite == suite]
    return json.loads(json.dumps(row.record))  # ready for JSON


def test_a_labelled_set_and_its_temperature() -> None:
    val, sketch = some("val", 600), some("sketch", 300)
    judged = judge({"ema": iter([sketch, val])})
    logits, labels = torch.from_numpy(val.logits), torch.from_numpy(val.labels)
    found = record_of(judged, "val")
    assert found["images"] == 600
    assert found["top1"] == pytest.approx(100 * (logits.argmax(1) == labels).float().mean().item())
    assert found["top5"] == pytest.approx(
        100 * (logits.topk(5).indices == labels[:, None]).any(1).float().mean().item()
    )
    assert found["nll"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)

    half = torch.from_numpy(calibration.half(val.names))
    cooled = found["temperature"]
    assert cooled["fitted_images"] == half.sum()
    heat, other = fitted_heat(logits[half], labels[half]), fitted_heat(logits[~half], labels[~half])
    assert cooled["temperature"] == pytest.approx(heat, rel=1e-6)
    judged_with = torch.where(half, other, heat).double()  # none had a part in its own
    expected = F.cross_entropy(logits.double() / judged_with[:, None], labels).item()
    assert cooled["nll"] == pytest.approx(expected, rel=1e-6)
    assert cooled["nll"] < found["nll"]

    beside = record_of(judged, "sketch")["temperature"]
    assert (beside["temperature"], beside["fitted_on"]) == (cooled["temperature"], "a half of val")
    logits, labels = torch.from_numpy(sketch.logits), torch.from_numpy(sketch.labels)
    assert beside["nll"] == pytest.approx(F.cross_entropy(logits.double() / heat, labels).item(), rel=1e-6)
    alone = record_of(judge({"ema": [sketch]}), "sketch")["temperature"]
    assert alone["fitted_on"] == "a half of the set"
    assert alone["temperature"] != cooled["temperature"]


def test_a_temperature_that_does_not_fit_is_said() -> None:
    val = some("val", 60)
    val.logits[np.arange(60), val.labels] = val.logits.min() - 1
    [row] = judge({"ema": [val]})
    assert row.notes == ["T is at the bound of the search, 100: no better than guessing"]
    [row] = judge({"ema": [some("val", 600)]})
    assert row.notes == []


def fitted_heat(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The temperature of least cross-entropy, by torch's own optimiser."""
    heat = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [heat], max_iter=100, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(logits.double() / heat.exp(), labels)
        loss.backward()
        return loss

    optimiser.step(closure)
    return heat.exp().item()


def test_real_skips_images_without_labels_and_takes_any_of_several() -> None:
    logits = np.array([[3, 2, 1, 0, -1, -2, -3]] * 4, np.float32)
    names = [f"val/n{i}/img{i}.JPEG" for i in range(4)]
    predictions = Predictions("real", names, np.array([0, 0, 0, 0]), logits, list("abcdefg"))
    labels = {"img0.JPEG": [], "img1.JPEG": [6, 0], "img2.JPEG": [4], "img3.JPEG": [5, 6]}
    found = record_of(judge({"model": [predictions]}, labels), "real")
    assert (found["images"], found["skipped"]) == (3, 1)
    assert found["top1"] == pytest.approx(100 / 3)
    assert found["top5"] == pytest.approx(200 / 3)
    with pytest.raises(UserError, match=r"^suite=real: ReaL has no labels for img3\.JPEG"):
        judge({"model": [predictions]}, {name: labels[name] for name in list(labels)[:3]})


def test_the_published_real_labels_are_those_of_the_classes() -> None:
    labels = real_labels(WNIDS)
    assert len(labels) == 50_000
    assert sum(not each for each in labels.values()) == 3_163
    assert labels["ILSVRC2012_val_00000002.JPEG"] == [970, 795]
    assert real_labels(WNIDS[795:971])["ILSVRC2012_val_00000002.JPEG"] == [175, 0]
    assert real_labels(WNIDS[:900])["ILSVRC2012_val_00000002.JPEG"] == [795]
    with pytest.raises(UserError, match=r"^suite=real: .* are others: cat$"):
        real_labels(["cat", WNIDS[0]])


@pytest.mark.parametrize("suite", ["a", "r"])
def test_a_variant_is_judged_among_its_classes_beside_the_same_of_val(suite: str) -> None:
    kept = [PLACE[name] for name in variant_classes(suite) or []]
    variant, val = some(suite, 300, WNIDS, kept), some("val", 800, WNIDS)
    outside = next(label for label in range(1000) if label not in kept)
    variant.logits[:, outside] = 99  # highest of all, and no candidate
    judged = judge({"model": [variant, val]})
    found = record_of(judged, suite)

    def top1(predictions: Predictions) -> float:
        rows = [
            (row, label) for row, label in zip(predictions.logits, predictions.labels, strict=True) if label in kept
        ]
        return 100 * sum(max(kept, key=lambda c: row[c]) == label for row, label in rows) / len(rows)

    assert found["top1"] == pytest.approx(top1(variant))
    assert found["top1"] > 10
    assert found["clean_top1"] == pytest.approx(top1(val))
    assert found["gap"] == pytest.approx(top1(val) - top1(variant))
    assert found["clean_images"] == np.isin(val.labels, kept).sum()
    assert ("aurra" in found) == (suite == "a")
    foreign = some(suite, 50, WNIDS, [kept[0], outside])
    with pytest.raises(UserError, match=f"^suite={suite}: .* ImageNet-{suite.upper()} does not have$"):
        judge({"model": [foreign]})


def test_a_model_of_other_classes_is_judged_among_those_that_have_images() -> None:
    variant = some("r", 100, pool=[2, 3, 5, 7])
    [row] = judge({"model": [variant]})
    assert row.classes == [WNIDS[i] for i in (2, 3, 5, 7)]
    assert row.notes == ["judged among 4 of 20 classes", "the clean accuracy takes the suite val too"]


def test_outliers_are_judged_against_val_of_their_classes() -> None:
    val = some("val", 1000, WNIDS)
    outliers = Predictions("o", ["x"] * 50, np.full(50, -1), some("o", 50, WNIDS).logits * 0, WNIDS)
    found = record_of(judge({"model": [outliers, val]}), "o")
    kept = [PLACE[name] for name in variant_classes("o") or []]
    assert found["inliers"] == np.isin(val.labels, kept).sum()
    assert found["images"] == 50
    assert (found["aupr"], found["auroc"], found["fpr95"]) == (100, 100, 0)  # none is less sure than a constant
    [alone] = judge({"model": [outliers]})
    assert alone.record == {"images": 50}
    assert "val" in alone.notes[0]


def test_corruptions_are_one_row_and_no_mce_of_a_part() -> None:
    parts = [some(f"c/{name}/{severity}", 20) for name in sorted(ALEXNET) for severity in range(1, 6)]
    errors = {p.suite: float((p.logits.argmax(1) != p.labels).mean()) for p in parts}
    found = record_of(judge({"model": iter(parts)}), "c")
    ces = [sum(errors[f"c/{name}/{s}"] for s in range(1, 6)) / (5 * constant) for name, constant in ALEXNET.items()]
    assert found["mce"] == pytest.approx(100 * np.mean(ces))
    assert (
        found["mean_error"] == pytest.approx(100 * np.mean(list(errors.values()))) == pytest.approx(100 - found["top1"])
    )
    assert next(iter(found["parts"])) == "gaussian_noise/1"
    [row] = judge({"model": [p for p in parts if "fog" not in p.suite]})
    assert row.record["mce"] is None
    assert any("there is no fog" in note for note in row.notes)
    [row] = judge({"model": [*parts, some("c/blurr/1", 20)]})
    assert row.record["mce"] == pytest.approx(100 * np.mean(ces))
    assert "no corruption of ImageNet-C: blurr; not in the means" in row.notes


def test_broken_logits_are_wrong_and_said() -> None:
    val = some("val", 100)
    val.logits[:50] = np.nan
    [row] = judge({"model": [val]})
    assert float(str(row.record["top1"])) <= 50
    assert np.isnan(float(str(row.record["ece"])))
    assert row.record["temperature"] is None
    assert row.notes == ["50 images with NaN or infinite logits: they count as wrong, and there is no calibration"]


def test_weights_are_judged_apart() -> None:
    good, bad = some("val", 100), some("val", 100)
    bad.logits[:] = 0
    found = by_suite(judge({"model": [bad], "ema": [good]}))
    assert found["val"]["model"]["top1"] == 0
    assert float(str(found["val"]["ema"]["top1"])) > 50
