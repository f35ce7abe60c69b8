"""Weights and the sidecar beside them: ``model.pt`` and ``model.json``.

A checkpoint alone does not say which network it fits, how its images were prepared or whom it was
trained on. The sidecar does (``data_schemas/weights.schema.json``). It is data, never code: its
settings are plain values that replace those of the bundle's ``common.yaml``.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import CaseRefused, find_cause
from monai_vfx.core.files import write_json
from monai_vfx.core.hashing import sha256_of
from monai_vfx.core.schemas import violations

if TYPE_CHECKING:
    from monai.bundle import ConfigParser
    from monai.transforms import Compose
    from torch import nn

BUNDLE = "vertebral_fracture_risk_ct_classification"
WINDOWS = ("window_hu", "window_2_hu", "window_3_hu")


def bundle_root() -> Path:
    """Return the folder of the bundle that is installed with the package."""
    from monai_vfx import bundles

    return Path(bundles.__file__).parent / BUNDLE


def sidecar_path(weights: str | Path) -> Path:
    """Return where the sidecar of a weights file lies.

    >>> sidecar_path("runs/model.pt").name
    'model.json'
    """
    return Path(weights).with_suffix(".json")


def write_sidecar(weights: str | Path, document: Json) -> Path:
    """Describe a weights file that was just written.

    Args:
        weights: the checkpoint.
        document: everything of ``weights.schema.json`` but ``weights_sha256``, which is added.

    Raises:
        ValueError: when the document breaks the schema.
    """
    document = {**document, "weights_sha256": sha256_of(weights)}
    broken = violations(document, "weights")
    if broken:
        raise ValueError("sidecar breaks its schema: " + "; ".join(broken))
    write_json(sidecar_path(weights), document)
    return sidecar_path(weights)


def read_sidecar(weights: str | Path) -> Json:
    """Read what is known about a weights file, and check that it is that file.

    Raises:
        CaseRefused: ``weights_unreadable`` without a valid sidecar; ``weights_mismatch`` when the
            file is not the one that the sidecar describes, or when the sidecar's settings are not
            those of this version (``model_settings.schema.json``), each of them.
    """
    path = sidecar_path(weights)
    for needed in (Path(weights), path):
        if not needed.is_file():
            raise CaseRefused("weights_unreadable", f"{needed.name} does not exist")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CaseRefused("weights_unreadable", f"{path.name} is not JSON") from error
    broken = violations(document, "weights")
    if broken:
        raise CaseRefused("weights_unreadable", f"{path.name}: {broken[0]}")
    if document["weights_sha256"] != sha256_of(weights):
        raise CaseRefused(
            "weights_mismatch",
            f"{Path(weights).name} has another SHA-256 than its sidecar names",
            "Restore the pair of files as vfx train wrote them.",
        )
    broken = violations(document["config"], "model_settings")
    if document["bundle"] != BUNDLE:
        broken = [f"bundle is {document['bundle']!r}, not {BUNDLE!r}"]
    elif not broken:
        broken = _contradictions(document["config"])
    if broken:
        found = "; ".join(broken[:5])
        raise CaseRefused(
            "weights_mismatch",
            f"the settings in {path.name} are not those of this version: {found}",
        )
    return cast(Json, document)


def _contradictions(config: Json) -> list[str]:
    """Return what the schema cannot say of settings."""
    windows = {name: config.get(name, (0, 1)) for name in WINDOWS}
    broken = [f"{name}: must rise" for name, (low, high) in windows.items() if low >= high]
    lengths = {len(values) for values in (config.get("clinical") or {}).values()}
    if len(lengths) > 1:
        broken.append("clinical: names, mean, sd and missing must be of one length")
    return broken


class TrainedModel:
    """A network with the weights and the preprocessing that belong together.

    The definitions come from the bundle's ``common.yaml``; the sidecar's settings replace the
    defaults there, so the weights decide, whatever overlay they were trained with.

    Args:
        weights: checkpoint with its sidecar; None gives the bundle's defaults, untrained.
        root: folder of the bundle.

    Raises:
        CaseRefused: see :func:`read_sidecar`.
    """

    def __init__(self, weights: str | Path | None, root: str | Path | None = None) -> None:
        self.weights = None if weights is None else Path(weights)
        self.root = bundle_root() if root is None else Path(root)
        self.sidecar: Json | None = None if weights is None else read_sidecar(weights)

    def require_weights(self) -> None:
        """Refuse to go on without weights.

        Raises:
            CaseRefused: ``weights_unreadable``.
        """
        if self.weights is None:
            raise CaseRefused("weights_unreadable", "no weights were given")

    @cached_property
    def network_def(self) -> nn.Module:
        """The network, in evaluation mode, on the CPU.

        Raises:
            CaseRefused: ``weights_unreadable`` or ``weights_mismatch``.
        """
        from monai_vfx.vertebrae.training.checkpoints import load_state

        network = cast("nn.Module", self._build("network_def"))
        if self.weights is not None:
            try:
                network.load_state_dict(load_state(self.weights))
            except RuntimeError as error:
                raise CaseRefused("weights_mismatch", _one_line(error)) from error
        return network.eval()

    @property
    def clinical(self) -> Json | None:
        """Names and statistics of the clinical variables that the network takes; None: none."""
        return None if self.sidecar is None else self.sidecar["config"].get("clinical")

    @cached_property
    def preprocessing(self) -> Compose:
        """The pipeline from paths to the network's input, without random parts.

        Raises:
            CaseRefused: ``weights_mismatch``.
        """
        return cast("Compose", self._build("preprocessing"))

    def _build(self, name: str) -> Any:
        """Build a part of ``common.yaml``; where the sidecar's settings do not fit, refuse."""
        try:
            return self._parser.get_parsed_content(name)
        except Exception as error:  # whatever a value of a foreign file may cause
            if self.sidecar is None:
                raise
            reason = find_cause(error, ValueError) or error
            raise CaseRefused(
                "weights_mismatch",
                f"{name} cannot be built from the sidecar's settings: {_one_line(reason)}",
            ) from error

    @cached_property
    def _parser(self) -> ConfigParser:
        from monai.bundle import ConfigParser

        parser = ConfigParser()
        parser.read_config(str(self.root / "configs" / "common.yaml"))
        if self.sidecar is not None:
            parser.update(dict(self.sidecar["config"]))
        return parser


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
