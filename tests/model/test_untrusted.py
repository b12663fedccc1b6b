"""A hostile file is refused by every way in, and nothing of it runs."""

import pickle
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import make_adata

from scivae.model import CIVAE


class Payload:
    """Unpickled, makes a file."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def payloads(flag: Path) -> dict[str, Payload]:
    make = f"open({str(flag)!r}, 'w')"
    return {
        "eval": Payload(eval, make),
        "exec": Payload(exec, make),
        "a shell": Payload(subprocess.getoutput, f"touch {flag}"),
        "a method": Payload(Path.touch, flag),
        "an array": Payload(np.fromfile, Payload(eval, make)),
    }


PLACES = {
    "weights": lambda contents, bad: contents["model_state_dict"].update(px_r=bad),
    "genes": lambda contents, bad: contents.update(var_names=bad),
    "an attribute": lambda contents, bad: contents["attr_dict"].update(temperature_=bad),
    "the registry": lambda contents, bad: contents["attr_dict"]["registry_"].update(x=[{"y": bad}]),
    "a key": lambda contents, bad: contents.update({"x": {(bad,): 1}}),
    "more": lambda contents, bad: contents.update(extra=bad),
}
WAYS = {
    "load": lambda folder: CIVAE.load(folder, adata=make_adata()),
    "load without cells": lambda folder: CIVAE.load(folder, adata=False),
    "load_query_data": lambda folder: CIVAE.load_query_data(make_adata(), str(folder)),
    "prepare_query_anndata": lambda folder: CIVAE.prepare_query_anndata(make_adata(), str(folder)),
    "load_registry": lambda folder: CIVAE.load_registry(str(folder)),
    "view_setup_args": lambda folder: CIVAE.view_setup_args(str(folder)),
}


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    trained.save(folder, save_anndata=True)
    return folder


@pytest.fixture
def hostile(saved, tmp_path):
    """Make a model whose file holds a payload, and the file that the payload would make."""
    flag = tmp_path / "it ran"

    def make(payload="eval", place="an attribute", **kwargs) -> Path:
        contents = torch.load(saved / "model.pt", weights_only=True)
        PLACES[place](contents, payloads(flag)[payload])
        folder = tmp_path / "hostile"
        folder.mkdir()
        torch.save(contents, folder / "model.pt", **kwargs)
        return folder

    return make, flag


@pytest.mark.parametrize("way", WAYS)
def test_no_way_in(hostile, way):
    make, flag = hostile
    with pytest.raises(
        ValueError, match=r"names '.*eval', which loading would execute; nothing was executed"
    ):
        WAYS[way](make())
    assert not flag.exists()


@pytest.mark.parametrize("place", PLACES)
def test_no_place(hostile, place):
    make, flag = hostile
    with pytest.raises(ValueError, match="Pass trusted=True only"):
        CIVAE.load(make(place=place), adata=make_adata())
    assert not flag.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("payload", list(payloads(Path("x"))))
def test_no_payload(hostile, payload, zipped):
    make, flag = hostile
    folder = make(payload, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="model"):
        CIVAE.load(folder, adata=make_adata())
    assert not flag.exists()


def test_the_payload_is_one(hostile):
    make, flag = hostile
    CIVAE.load(make(place="more"), adata=make_adata(), trusted=True)
    assert flag.exists()


def test_plain_pickle(tmp_path):
    flag = tmp_path / "it ran"
    (tmp_path / "model.pt").write_bytes(pickle.dumps({"attr_dict": payloads(flag)["eval"]}))
    with pytest.raises(ValueError, match="model"):
        CIVAE.load(tmp_path)
    assert not flag.exists()


def test_old_format_of_scvi_tools(tmp_path):
    flag = tmp_path / "it ran"
    for name in ("model_params.pt", "attr.pkl"):
        (tmp_path / name).write_bytes(pickle.dumps(payloads(flag)["eval"]))
    (tmp_path / "var_names.csv").write_text("a\n")
    with pytest.raises(
        NotImplementedError, match="does not support the format of scvi-tools before 0.15"
    ):
        CIVAE.convert_legacy_save(tmp_path, tmp_path / "new")
    assert not flag.exists()
    assert not (tmp_path / "new").exists()


def test_checkpoints(adata, tmp_path):
    flag = tmp_path / "it ran"
    path = tmp_path / "training.ckpt"
    torch.save({"state_dict": payloads(flag)["eval"], "civae": {}}, path)
    CIVAE.setup_anndata(adata)
    model = CIVAE(adata, n_latent=4)
    with pytest.raises(ValueError, match="names '.*eval'"):
        model.train(max_epochs=1, checkpoint_dir=tmp_path, enable_progress_bar=False)
    with pytest.raises(pickle.UnpicklingError):
        model.train(max_epochs=1, ckpt_path=path, enable_progress_bar=False)
    assert not flag.exists()


def test_a_file_cannot_choose_what_is_called(saved, tmp_path):
    contents = torch.load(saved / "model.pt", weights_only=True)
    contents["attr_dict"]["registry_"]["setup_method_name"] = "convert_legacy_save"
    torch.save(contents, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="names 'convert_legacy_save'"):
        CIVAE.load(tmp_path, adata=make_adata())


@pytest.mark.parametrize("length", [0, 1, 1000, -1])
def test_damaged(saved, tmp_path, length):
    (tmp_path / "model.pt").write_bytes((saved / "model.pt").read_bytes()[:length])
    with pytest.raises(ValueError, match="is not a complete model file"):
        CIVAE.load(tmp_path)


def test_something_else(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no saved model at"):
        CIVAE.load(tmp_path)
    torch.save({"a": 1}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="must be saved by CIVAE.save, but"):
        CIVAE.load(tmp_path)
