"""The bundle's configs, merged and run as MONAI's own command would run them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from monai.bundle import ConfigParser, ConfigWorkflow
from monai.transforms import Compose

from monai_vfx.model.bundle.overlays import config_files
from monai_vfx.model.checkpoint import bundle_root


def preprocessing(**settings: Any) -> Compose:
    """Return the bundle's chain from paths to the network's input, without random parts.

    Args:
        **settings: values for settings of ``common.yaml``, such as ``masked=True``.

    Returns:
        Takes ``{"image": path, "mask": path}``; its ``image`` is (1, H, W, slices) in [-1, 1].

    Raises:
        KeyError: a setting that ``common.yaml`` does not have.
    """
    parser = ConfigParser()
    parser.read_config(config_files(["common"]))
    unknown = sorted(set(settings) - set(parser.get("model_settings")))
    if unknown:
        raise KeyError(f"not a setting of the chain: {', '.join(unknown)}")
    parser.update(settings)
    with quiet():
        chain: Compose = parser.get_parsed_content("preprocessing")
    return chain


def run_bundle(
    names: Iterable[str], workflow_type: Literal["train", "infer"], **settings: Any
) -> None:
    """Run the bundle with these configs, later ones over earlier ones, and these settings.

    A text among the settings is read as MONAI's configuration language ($ runs Python, @ and %
    refer, # becomes ::). What comes from the user goes in as a Path or within a tuple, which the
    parser leaves alone.
    """
    with quiet():
        workflow = ConfigWorkflow(
            config_file=config_files(names),
            meta_file=str(bundle_root() / "configs" / "metadata.json"),
            logging_file=False,
            workflow_type=workflow_type,
            **settings,
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep two remarks of MONAI from the user, who can do nothing about them.

    ``LoadImage`` creates every reader it knows and one of them misses a GPU decoder; the workflow
    says that no logging file was given.
    """
    loggers = [
        logging.getLogger(name)
        for name in ("monai.data.nvimgcodec_pydicom_plugin", "monai.bundle.workflows")
    ]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "NvImgCodecPydicomReader", UserWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
