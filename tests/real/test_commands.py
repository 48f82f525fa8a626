"""The commands on the real sets: features through `fit` and `evaluate`, photographs through `index` and `search`."""

import json

import numpy as np
import pytest

import bitfuse as bf
from bitfuse.cli import main


def run(capsys, *args):
    """Standard output and standard error of a command that succeeds."""
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in args])
    printed = capsys.readouterr()
    assert stop.value.code == 0, printed.err
    return printed.out, printed.err


@pytest.mark.filterwarnings("ignore::bitfuse.errors.DataWarning")  # 70 % of hm's pairs share one of its 47 labels
@pytest.mark.parametrize(("path", "least"), [("hm-fashionclip/features.npz", 0.8), ("wikipedia/wikiData.mat", 0.5)])
def test_features_through_fit_and_evaluate(shared, tmp_path, capsys, path, least):
    data, model = shared / path, tmp_path / "model"
    out, _ = run(capsys, "fit", data, "--method", "fomh", "--bits", 64, "--out", model)
    assert "held out" in out
    result = json.loads(run(capsys, "evaluate", model, data, "--json")[0])
    assert result["dataset"] == data.stem
    assert result["map"] > max(least, result["floors"]["random codes"] + 0.15)


@pytest.mark.slow
def test_photographs_through_index_and_search(shared, tmp_path, capsys):
    shop = tmp_path / "shop"
    _, err = run(capsys, "index", shared / "grocery" / "items.csv", "--backbone", "pocket", "--out", shop)
    assert "photographs" in err  # pocket says that it is not for them
    photo = shared / "grocery" / "images" / "Golden-Delicious_001.jpg"
    hits = json.loads(run(capsys, "search", shop, "--image", photo, "-k", 972, "--json")[0])
    assert len(hits) == 972
    items = [hit["item"] for hit in hits]
    kinds = np.array([item["kind"] for item in items])
    chance, found = [], []
    with bf.Collection.open(shop) as collection:
        for item in items[::10]:
            nearest = [h.item["kind"] for h in collection.search(image=item["image"], k=11) if h.id != item["id"]][:10]
            found.append(np.mean([kind == item["kind"] for kind in nearest]))
            chance.append(((kinds == item["kind"]).sum() - 1) / (len(items) - 1))
    assert np.mean(found) > 2 * np.mean(chance)
