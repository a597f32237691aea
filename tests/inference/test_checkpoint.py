"""Pieces of an unfinished fit: kept whole, made again when damaged, and never mixed with another run's."""

import errno

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from inference import checkpoint
from inference.checkpoint import NOTHING_KEPT, Checkpoint
from inference.samplers.nuts import nuts
from pkpd.errors import InputError

IDENTITY = {"config": "a", "data": "b", "versions": {"jax": "1"}}
WHAT = {"x": np.arange(5.0), "word": np.asarray("some text")}


def counted(arrays=WHAT):
    calls = []

    def make():
        calls.append(1)
        return arrays

    return make, calls


def test_a_piece_is_made_once(tmp_path):
    make, calls = counted()
    for _ in range(3):
        found = Checkpoint(tmp_path).at("round-1").piece("nuts", make)
        assert np.array_equal(found["x"], WHAT["x"]) and str(found["word"]) == "some text"
    assert len(calls) == 1
    Checkpoint(tmp_path).drop("round-1")
    assert not (tmp_path / "round-1").exists()


def test_nothing_is_kept_without_a_folder():
    make, calls = counted()
    for _ in range(2):
        NOTHING_KEPT.at("round-1").piece("nuts", make)
    assert len(calls) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[: len(b) // 2],
        lambda b: b"",
        lambda b: b[:200] + bytes([b[200] ^ 255]) + b[201:],
        lambda b: b"not an archive",
    ],
    ids=["cut", "empty", "one byte", "text"],
)
def test_a_damaged_piece_is_made_again_and_said_so(tmp_path, capsys, damage):
    make, calls = counted({"x": np.arange(400.0)})
    Checkpoint(tmp_path).piece("nuts", make)
    file = tmp_path / "nuts.npz"
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert np.array_equal(Checkpoint(tmp_path).piece("nuts", make)["x"], np.arange(400.0))
    assert len(calls) == 2
    assert "nuts.npz is damaged" in capsys.readouterr().err
    assert np.array_equal(Checkpoint(tmp_path).piece("nuts", make)["x"], np.arange(400.0)) and len(calls) == 2


def test_a_piece_that_cannot_be_written_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    def full(file, **arrays):
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(file))

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(InputError, match="the disk is full"):
        Checkpoint(tmp_path).piece("nuts", counted()[0])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("config", "c", "begun with another config"),
        ("data", "c", "begun with other data"),
        ("versions", {"jax": "2"}, "begun with other versions of its packages"),
        ("scenario", "c", "begun with another scenario"),
    ],
)
def test_another_runs_checkpoint_is_refused_by_name(tmp_path, key, value, message):
    folder = tmp_path / "checkpoint"
    checkpoint.begin(folder, IDENTITY)
    checkpoint.begin(folder, IDENTITY)
    with pytest.raises(InputError, match=message):
        checkpoint.begin(folder, {**IDENTITY, key: value})


def test_a_checkpoint_without_a_readable_identity_is_not_trusted(tmp_path, capsys):
    folder = tmp_path / "checkpoint"
    checkpoint.begin(folder, IDENTITY).piece("old", counted()[0])
    (folder / checkpoint.IDENTITY).write_text("{")
    checkpoint.begin(folder, IDENTITY)
    assert "begins again" in capsys.readouterr().err and not (folder / "old.npz").exists()
    (folder / checkpoint.IDENTITY).unlink()
    (folder / "piece.npz").write_bytes(b"")
    with pytest.raises(InputError, match="does not say what it was begun with"):
        checkpoint.begin(folder, IDENTITY)


def test_what_a_kill_leaves_half_written_is_no_piece(tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "identity.part.json").write_text("{")
    checkpoint.begin(folder, IDENTITY)


def normal(data):
    x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    numpyro.factor("data", -0.5 * ((x - data) ** 2).sum())


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_nuts_goes_on_to_the_same_bits(tmp_path, stop):
    def run(keep, progress=None):
        settings = {"warmup": 40, "draws": 60, "keep": keep, "progress": progress}
        return nuts(normal, jax.random.key(1), {"x": jnp.zeros((2, 3))}, (jnp.ones(3),), **settings)

    calls = iter(range(stop))

    def interrupt(done, total):
        if next(calls, None) is None:
            raise KeyboardInterrupt

    whole = run(NOTHING_KEPT)
    with pytest.raises(KeyboardInterrupt):
        run(Checkpoint(tmp_path), interrupt)
    resumed = run(Checkpoint(tmp_path))
    assert np.array_equal(whole.samples["x"], resumed.samples["x"])
    for name, values in whole.sample_stats.items():
        assert np.array_equal(values, resumed.sample_stats[name]), name


def test_a_density_that_is_no_number_stops_nuts_with_its_cause():
    def model(data):
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))
        numpyro.factor("data", jnp.log(x - x) * 0 + data)

    with pytest.raises(InputError, match="where chain 1 starts: a likelihood that is no number"):
        nuts(model, jax.random.key(1), {"x": jnp.zeros(2)}, (jnp.ones(()),), warmup=10, draws=10)
