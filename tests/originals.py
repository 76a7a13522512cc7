"""One file, or folder of files, for each loader of the package, small and with every field."""

import numpy as np
from models.directories import write_model

from spex_jax import Explanation, Spectrum
from spex_jax.analysis.correction import Correction
from spex_jax.analysis.metrics import Faithfulness
from spex_jax.analysis.validation import Measured, Validation
from spex_jax.core.ablations import Ablations, last_rows
from spex_jax.engine.details import details_from_json


def last_held_out(masks, values, count):
    """Ablations whose last `count` rows are held out."""
    return Ablations(masks=masks, values=values, held_out=last_rows(len(masks), count))


def spectrum_of(n=9, terms=7):
    rng = np.random.default_rng(3)
    support = (np.arange(terms)[:, None] * 5 >> np.arange(n) & 1).astype(np.bool_)
    factor = rng.normal(size=(terms, 2))
    return Spectrum(support, rng.normal(size=terms), np.square(factor).sum(axis=1) + 0.1, factor)


def explanation_of(details, n=9):
    rng = np.random.default_rng(4)
    spectrum = spectrum_of(n)
    masks = (np.arange(3, 43)[:, None] * 11 >> np.arange(n) & 1).astype(np.bool_)
    row = Measured(
        members=(0, 2), predicted=0.2, measured=0.1, low=0.0, high=0.2, contexts=8, whole=False, verdict="confirmed"
    )
    names = tuple(f"w{i}" for i in range(n))
    return Explanation(
        spectrum=spectrum,
        ablations=last_held_out(masks, rng.normal(size=40), 10),
        faithfulness=Faithfulness(0.9, 0.8, 0.95),
        exact=False,
        names=names,
        index="FSII",
        max_order=2,
        timings={"compile": 1.5, "fit": 2.0},
        settings={"method": "proxyspex", "budget": 40, "seed": 7, "proxy": "auto", "versions": {"jax": "0.10"}},
        details=details_from_json(details, n),
        noise=0.001,
        stored=3,
        failed=~masks[:2],
        correction=Correction(effects=rng.normal(size=n), masks=masks[:5], errors=rng.normal(size=5)),
        validation=Validation(
            index="FSII", max_order=2, rows=(row,), names=names, draws=("size",), asked=9, known=2, noise=0.0
        ),
    )


def write_all(folder):
    """One file, or folder of files, for each loader."""
    text = " ".join(f"w{i}" for i in range(9))
    of_text = {"text": text, "spans": [[3 * i, 3 * i + 2] for i in range(9)], "units": "word", "value": "logprob"}
    picture = "data:image/png;base64,iVBORw0KGgo="
    of_network = {
        **{"units": "head", "prompts": 4, "layers": [[i // 3] for i in range(9)], "columns": list("abcabcabc")},
        **{"test_point": 1, "pictures": {"units": [[picture]] * 9, "tests": [picture] * 2}},
        "seed_noise": {"deviation": 0.1, "share": 0.2, "seeds": 3},
    }
    spectrum_of().save(folder / "spectrum.npz")
    spectrum_of().interactions("SII", 2).save(folder / "interactions.json")
    explanation_of({**of_text, "target": "w1"}).save(folder / "explanation")
    explanation_of(of_network).save(folder / "explanation of a network")
    np.save(folder / "table.npy", np.packbits(np.random.default_rng(5).random((30, 19)) < 0.5, axis=1))
    write_model(folder / "model", "bert")
    (folder / "model" / "1_Pooling").mkdir()
    (folder / "model" / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
