"""What pydicom would say stays unsaid, whatever threads come and go."""

from __future__ import annotations

import logging
import threading
import warnings

import pydicom

from monai_vfx.io.dicom.archives import quiet_pydicom


def test_threads_that_overlap_leave_everything_as_it_was() -> None:
    logger, filters = logging.getLogger("pydicom"), list(warnings.filters)
    mode = pydicom.config.settings.reading_validation_mode
    first_in, second_in, first_out = (threading.Event() for _ in range(3))
    seen = []

    def first() -> None:
        with quiet_pydicom():
            first_in.set()
            second_in.wait(10)
        first_out.set()

    def second() -> None:
        first_in.wait(10)
        with quiet_pydicom():
            second_in.set()
            first_out.wait(10)
            seen.append((logger.disabled, pydicom.config.settings.reading_validation_mode))

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [(True, pydicom.config.IGNORE)]
    assert not logger.disabled
    assert pydicom.config.settings.reading_validation_mode == mode
    assert list(warnings.filters) == filters
