"""Refusals, warnings and their codes: why a case is not accepted, in words a user can act on.

A *refusal* ends the work on one case (exit status 3, one JSON line); a *warning* travels with the
result. Both carry a code that is part of the public contract, so pipelines may branch on it. The
tables below are the only place where codes are defined.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

E = TypeVar("E", bound=BaseException)

REFUSALS: dict[str, str] = {
    # input
    "input_unreadable": "Give a DICOM folder, a zip or tar of one, a NIfTI or an NRRD file.",
    "archive_too_large": "Unpack the archive with the program that made it and give the folder.",
    "no_image": "Give a folder that holds the DICOM files of one CT series.",
    "files_missing": "Copy the whole disc again, or name a series that is whole with --series UID.",
    "file_truncated": "The file is incomplete: copy or download it again.",
    "file_missing": "The image's voxels or header lie in another file: give both, side by side.",
    "not_ct": "Only CT is accepted: choose the CT series of the study.",
    "several_series": "Point to one series, or name it with --series UID.",
    "series_mixed": "Export the series again so that all its slices share one geometry.",
    "geometry_missing": "Export the series again with its position, orientation and spacing tags.",
    "geometry_invalid": "The image's geometry is not usable: export or convert it again.",
    "forms_disagree": "Write the NIfTI again with sform and qform alike, or with one of them.",
    "units_not_mm": "Write the image again with positions and spacing in mm.",
    "too_few_slices": "Provide the whole volume: T12 to L4 must be covered.",
    "slices_duplicated": "Two slices share one position: remove the duplicates.",
    "phases_overlap": "The series holds several phases or reconstructions: separate them first.",
    "slices_missing": "Slices are missing: export the whole series again.",
    "spacing_uneven": "Slices must be equally far apart: use a reconstruction where they are.",
    "gantry_tilt": "Tilted-gantry series are not supported: use an untilted reconstruction.",
    "multiframe": "Convert the Enhanced object to a classic CT series, NIfTI or NRRD.",
    "uid_invalid": "Export the series again: each slice needs a SOPInstanceUID of its own.",
    "pixel_format": "Export the series again, as CT images with 9 to 16 or 32 bits a value.",
    "syntax_unsupported": "Store the series in another transfer syntax, such as explicit VR.",
    "slices_too_thick": "Use a reconstruction with slices at most 10 mm apart, best 5 mm or less.",
    "not_volume": "One three-dimensional image is needed: no time points, no colours.",
    "not_hounsfield": "Values must be Hounsfield units: apply rescale slope and intercept.",
    "hu_implausible": "Values are shifted or scaled: apply slope and intercept exactly once.",
    "size_implausible": "Write pixel size and positions in mm.",
    "identity_conflict": "The slices name more than one patient: separate them first.",
    "header_conflict": "Find out which is right: the row may belong to another CT. Correct the "
    "table, or leave out the column.",
    # PACS
    "pacs_unreachable": "Check host, port and path of the address, and whether the PACS runs.",
    "pacs_denied": "Set VFX_DICOMWEB_USER and VFX_DICOMWEB_PASSWORD, or VFX_DICOMWEB_TOKEN, to "
    "an account that may do this.",
    "not_in_pacs": "Check the UIDs and the path of the address.",
    "retrieval_incomplete": "Run again; if it stays so, export the series to a folder.",
    "pacs_error": "Run again later; if it stays so, ask who runs the PACS to look into its log.",
    "store_failed": "The results stay in --out: ask who runs the PACS why it does not take them.",
    # mask
    "mask_required": "Give a label map or a folder of per-structure files with --mask.",
    "mask_unreadable": "The mask must be a NIfTI or NRRD label map, a folder of such, or a DICOM "
    "SEG or RTSTRUCT.",
    "several_masks": "Give the one SEG or RTSTRUCT file that is meant.",
    "mask_empty": "The mask holds no vertebra of T12-L4: check which file was given.",
    "mask_labels_unknown": "Name the scheme with --labels, or use a file that carries names.",
    "mask_grid_mismatch": "The mask does not lie on this CT: use the mask made from this series.",
    "mask_off_bone": "The labelled region is not bone on this CT: check that mask and CT match.",
    "mask_shifted": "The mask lies beside its vertebrae along the spine: use the mask made from "
    "this series, or move it.",
    "mask_fractional": "Label values must be whole numbers: export the mask as a label map.",
    "mask_overlaps": "Correct the structures so that no voxel belongs to two vertebrae.",
    "contours_missing": "Interpolate the contours to all slices of the CT and export them again.",
    "level_missing": "All of T12, L1, L2, L3 and L4 must be in the image and in the mask.",
    "levels_out_of_order": "Check label values and affine: levels must run head to feet.",
    "levels_gap": "Label the vertebra in between, and name those below it anew.",
    "body_impossible": "Check whether a label holds two vertebrae or a part of one, and the voxel "
    "size.",
    "mask_disagrees": "Look at mask_disagrees.png in --out: correct the mask's levels, or give "
    "--no-compare-mask if they are right.",
    "mask_not_made": "Run the tool by hand to see why, or give a mask with --mask.",
    # localiser
    "spine_not_found": "A CT that shows the lumbar spine is needed; give a mask with --mask.",
    "level_uncertain": "Name the vertebrae by eye and give the mask with --mask, or use a CT that "
    "shows the last ribs and the sacrum.",
    # morphometry
    "heights_too_coarse": "Use slices at most 3 mm apart, a reader's heights, or --allow-thick.",
    # model
    "weights_unreadable": "Give a checkpoint of vfx train with its .json sidecar beside it.",
    "weights_mismatch": "The checkpoint does not fit the network that its sidecar describes.",
    # tables
    "clinical_invalid": "Give a table of one row with the weights' variables, with --clinical.",
    "cohort_invalid": "Correct the listed cells and run again.",
    "gate_stale": "Run vfx check on this table again and give the new check.csv.",
    "gate_excluded": "Leave the warning out of the list of those that exclude, to keep the case.",
    "internal": "This is a defect of the software: please report it with the log.",
}
"""Refusal code → what the user can do about it."""

WARNINGS: dict[str, str] = {
    "label_fragments": "stray pieces of labels were left out",
    "level_cut": "a level is cut by the field of view",
    "level_extra": "a vertebra beyond T12 and L1-L5 is labelled (T13 or L6): check the numbering",
    "lumbar_count": "not five lumbar vertebrae were counted above the sacrum: check the numbering",
    "body_unusual": "a vertebral body has an unusual size: look at the picture",
    "mask_resampled": "the mask was resampled onto the CT's grid",
    "mask_partial": "a part of the mask lies outside the CT",
    "segmentation_not_written": "the mask that was made could not be written as DICOM SEG",
    "export_not_written": "the CT's headers do not allow an object that --export asks for",
    "mask_not_compared": "the mask's levels could not be compared with the localiser's",
    "body_derived": "vertebral bodies were derived from whole-vertebra labels",
    "slices_repeated": "fewer slices than the network takes: some are repeated",
    "slice_thickness": "slices are thicker than the study's protocol",
    "slices_apart": "slices are thinner than their distance: tissue between them was not imaged",
    "resolution_coarse": "pixels are coarser than those of the study",
    "crop_padded": "the crop leaves the field of view and was padded",
    "simulated_weights": "the weights were trained on simulated patients",
    "position_unusual": "the patient does not lie supine",
    "age_outside_study": "the patient is younger or older than those of the study",
    "contrast_contradictory": "what is known of contrast medium contradicts itself",
    "fracture_suspected": "a vertebra already looks fractured",
    "fracture_unclear": "a vertebra may be fractured: the slices are too thick to tell",
    "metal_or_cement": "metal or cement in or behind T12-L4",
    "position_conflict": "position of the patient and direction of the rows contradict each other",
    "lossy_compression": "values were changed by compression before they came here",
    "monoenergetic": "HU are those of a virtual photon energy, not of a tube voltage",
    "padding_ignored": "the padding value is one that tissue has: it was not replaced by air",
    "several_patients": "the input holds several patients: check that the right one was taken",
    "other_series_ignored": "other series in the folder were left aside",
    "clinical_missing": "a clinical variable is missing and was set to the training mean",
    "heights_coarse": "slices are so thick that heights of vertebrae are uncertain",
    "normal_values_crude": "one cut for all levels and ratios: wrong for ratios of neighbours",
    "out_of_distribution": "the image differs from all that the weights were trained on",
}
"""Warning code → its meaning."""

RULES: dict[str, str] = {
    "header_conflict": "An age in the table may differ from the header's by "
    "{dicom.facts.AGE_TOLERANCE_YEARS} year, a date by {dicom.facts.DATE_TOLERANCE_DAYS} day; sex "
    "must be the same. What either lacks is not compared.",
    "gate_stale": "Each row of the table must be in check.csv, with the image and the mask as they "
    "were when they were checked (size and time of each file, else the SHA-256 of the content).",
    "gate_excluded": "A row is left out when check.csv has one of the warnings that exclude.",
    "age_outside_study": "The age lies from {preflight.YOUNGEST_YEARS} to {preflight.OLDEST_YEARS} "
    "years; a header holds whole years.",
    "contrast_contradictory": "Tags, times and words of the header name one phase at most, and "
    "do not say both that medium was given and that it was not; nor does the aorta, where it is "
    "labelled, contradict them.",
    "fracture_suspected": "No ratio of heights (Ha/Hp, Hm/Hp, Hp to a neighbour's) of T12-L4 lies "
    "by {case_facts.suspicion.SURE_SD} SD of its measurement below "
    "{case_facts.suspicion.LOWEST_RATIO}.",
    "fracture_unclear": "No ratio lies below {case_facts.suspicion.LOWEST_RATIO} by less than "
    "{case_facts.suspicion.SURE_SD} SD of its measurement; for slices of more than "
    "{case_facts.suspicion.THICKEST_MM} mm no such SD is known, and the warning always comes.",
    "metal_or_cement": "Less than {case_facts.implants.LEAST_INSIDE_MM3} mm³ above "
    "{case_facts.implants.INSIDE_HU} HU inside the bodies, and less than "
    "{case_facts.implants.LEAST_BEHIND_MM3} mm³ above {case_facts.implants.BEHIND_HU} HU behind "
    "them.",
    # refusals: what is asked of a case
    "input_unreadable": "The path exists, may be read, and holds a DICOM file, a folder, zip "
    "(stored or deflated, not encrypted) or tar of such, a DICOMDIR, NIfTI-1 or -2 (not Analyze), "
    "NRRD or MetaImage.",
    "no_image": "A folder or zip holds at least one DICOM image, and the series named with "
    "--series; a table's row names an image.",
    "archive_too_large": "An archive holds at most {dicom.archives.MOST_FILES} files of at most "
    "{dicom.archives.LARGEST_FILE:.1e} bytes; above {dicom.archives.SAFE_SIZE:.1e} bytes in all at "
    "most {dicom.archives.TIGHTEST} times its own size; never more than "
    "{dicom.archives.LARGEST_ARCHIVE:.1e}. A deflated DICOM file holds at most "
    "{dicom.inflating.LARGEST_INFLATED:.1e} bytes.",
    "files_missing": "Every CT file that a DICOMDIR names is there; with --series, every one of "
    "that series.",
    "file_truncated": "Every DICOM file of the series is whole: its header can be read, and as "
    "many bytes of pixels follow as it announces (compressed: the end mark, and they decode). So "
    "is every file whose header does not show that it belongs elsewhere. A zip, a tar, a gzip and "
    "a NIfTI, NRRD or mask end where their headers say, with the right sum.",
    "file_missing": "A `.hdr` has its `.img` beside it and the other way round; the one data file "
    "that a NRRD or MetaImage header names is there.",
    "not_ct": "Modality is CT in every slice; localizers (ImageType) and secondary captures do "
    "not count as one.",
    "several_series": "Without --series one CT series is left by the criteria: it passes the "
    "checks of its headers; at least {dicom.choosing.LEAST_LENGTH_MM} mm long and no other part "
    "of the body; axial; original; soft-tissue kernel; thinnest slices; longest (by more than "
    "{dicom.choosing.SAME_LENGTH_MM} mm); most closely spaced.",
    "series_mixed": "All slices share Rows, Columns, PixelSpacing, FrameOfReferenceUID and, "
    "within {dicom.stack.DIRECTION_TOLERANCE}, the direction cosines; their corners lie within "
    "{dicom.stack.ASIDE_TOLERANCE_MM} mm of the line through the first and the last.",
    "geometry_missing": "Every slice has ImagePositionPatient, ImageOrientationPatient, "
    "PixelSpacing, Rows and Columns; a NIfTI an sform or a qform; a NRRD `space`, `space "
    "origin` and three `space directions`; a MetaImage `TransformMatrix`, `Offset` and "
    "`ElementSpacing`.",
    "geometry_invalid": "These are finite and of the right count; direction cosines are unit "
    "vectors at right angles within {dicom.stack.ORTHONORMAL_TOLERANCE}; voxels are at least "
    "{volumes.LEAST_SPACING_MM} mm wide, their axes at right angles (cosine at most "
    "{volumes.SKEW_TOLERANCE}) and at most {volumes.LARGEST_TURN_DEG} degrees off the patient's; "
    "there are at most {volumes.MOST_VOXELS:.0e} voxels.",
    "forms_disagree": "Where a NIfTI has an sform and a qform, they place no corner of the volume "
    "more than {nifti_files.FORMS_TOLERANCE_MM} mm apart; the sform is taken.",
    "units_not_mm": "The unit of a NIfTI (`xyzt_units`) or NRRD (`space units`) is mm, or none is "
    "stated.",
    "too_few_slices": "There are at least {dicom.stack.SHORTEST_SERIES} slices.",
    "slices_duplicated": "Positions on the slice normal differ by at least "
    "{dicom.stack.SAME_PLACE_MM} mm.",
    "phases_overlap": "No tag of {dicom.stack.PHASE_TAGS} divides the slices into even stacks that "
    "share half of their length, and fewer than {dicom.stack.SHORTEST_SERIES} neighbouring slices "
    "share their positions with others.",
    "slices_missing": "No slice distance is a multiple of their median; all parts of an Enhanced "
    "object are there.",
    "spacing_uneven": "No slice distance differs from their median by more than "
    "{dicom.stack.SPACING_TOLERANCE:.0%} of it or, if that is more, "
    "{dicom.stack.SPACING_SLACK_MM} mm.",
    "gantry_tilt": "The line through the slices' corners lies at most "
    "{dicom.stack.TILT_TOLERANCE_DEG} degrees off the slice normal.",
    "multiframe": "An Enhanced object has functional groups for each of its frames, and they are "
    "one stack.",
    "uid_invalid": "Each slice has a SOPInstanceUID, and no other slice has the same.",
    "pixel_format": "SamplesPerPixel, PhotometricInterpretation, BitsAllocated "
    "({dicom.slices.BITS_ALLOCATED}), BitsStored (more than 8), HighBit (one less) and "
    "PixelRepresentation are there and fit each other, and no value needs more bits.",
    "syntax_unsupported": "The transfer syntax is stated, and a decoder for it is installed.",
    "slices_too_thick": "Slices lie at most {dicom.choosing.LARGEST_SPACING_MM} mm apart.",
    "not_volume": "Voxels are single numbers on three axes; further axes have one frame.",
    "not_hounsfield": "RescaleSlope (above 0) and RescaleIntercept are there, RescaleType is HU, "
    "US or absent, ImageType names no map made from several energies, PhotometricInterpretation is "
    "MONOCHROME2; values around the spine are finite, some below {preflight.FAT_HU} (fat), some "
    "above {preflight.BONE_HU} (bone), none beyond ±{preflight.MOST_HU}.",
    "hu_implausible": "Around T12-L4 at least {hu_peaks.LEAST_BODY_SHARE:.0%} of the values lie at "
    "{hu_peaks.BODY_HU} HU, their main peak lies at {hu_peaks.MAIN_PEAK_HU} HU, and fat and soft "
    "tissue, where both have a peak, peak {hu_peaks.PEAKS_APART_HU} HU apart.",
    "size_implausible": "Pixels are {preflight.LEAST_PIXEL_MM} to {preflight.MOST_PIXEL_MM} mm "
    "wide, slices {preflight.LEAST_FIELD_MM} to {preflight.MOST_FIELD_MM} mm, and the stack is "
    "{preflight.LEAST_EXTENT_MM} to {preflight.MOST_EXTENT_MM} mm long.",
    "identity_conflict": "All slices have the same PatientID.",
    "pacs_unreachable": "The service takes a connection within "
    "{pacs.client.CONNECT_TIMEOUT_S} s and sends something every {pacs.client.READ_TIMEOUT_S} s, "
    "over TLS with a trusted certificate where the address says so; redirections are not followed.",
    "pacs_denied": "The service does not answer 401 or 403.",
    "not_in_pacs": "The service lists the study and the series.",
    "retrieval_incomplete": "Every instance that the service lists for a series arrives and can be "
    "kept.",
    "pacs_error": "The service answers with success, in the form that DICOM PS3.18 prescribes.",
    "store_failed": "The service confirms each object that is stored, or shows it when asked.",
    "mask_required": "There is a mask, or the localiser or a tool makes one.",
    "mask_unreadable": "The mask is a NIfTI, NRRD or MetaImage label map or a folder of such, and "
    "may be read.",
    "mask_empty": "At least one voxel belongs to T12-L4.",
    "mask_labels_unknown": "Labels are known by the file's own names, by --labels, or by numbers "
    "of one scheme that at least {label_schemes.FEWEST_LEVELS} of T12-L4 follow from head to "
    "feet, {label_schemes.STEP_MM} mm apart; files of a folder are named after structures.",
    "mask_grid_mismatch": "At most {mask_placing.OUTSIDE_SHARE:.0%} of the voxels of T12-L4 lie "
    "beside the CT, and some lie in it.",
    "mask_off_bone": "The bodies' outer {on_bone.SHELL_MM} mm have an upper quartile of at least "
    "{on_bone.LEAST_HU} HU and are denser than the ring {on_bone.RING_MM} mm around them with a "
    "probability of at least {on_bone.LEAST_CONTRAST} (medians over the levels; at the best of "
    "shifts by {on_bone.SLACK_MM} mm and a mask wider or narrower by {on_bone.GROWTH_MM[2]} mm).",
    "mask_fractional": "Values of a label map lie within {label_files.WHOLE_TOLERANCE} of whole "
    "numbers below 2^53.",
    "level_missing": "T12, L1, L2, L3 and L4 are all there, in the mask and in the CT; a level "
    "that is not cut has at least {wholeness.LEAST_SHARE:.0%} of their median volume; the "
    "localiser sees all five whole, with a probability of at least "
    "{localiser.locate.LEAST_IN_VIEW}.",
    "levels_out_of_order": "The centroids of the levels follow each other from head to feet.",
    "mask_disagrees": "No body of a given mask whose centre lies within "
    "{mask_sources.comparison.SAME_BODY_MM} mm of one of the localiser's has another name there "
    "(--compare-mask).",
    "mask_not_made": "TotalSegmentator, where it was asked for, ends with status 0 and a label "
    "map.",
    "spine_not_found": "The localiser finds at least {localiser.spine.FEWEST_BODIES} vertebral "
    "bodies in a row, not all of the neck.",
    "level_uncertain": "The localiser is sure that T12 to L4 are named right: its probability is "
    "at least {localiser.naming.THRESHOLD}, or what its weights' naming.json says.",
    "heights_too_coarse": "For heights (vfx morphometry) slices are at most "
    "{study.morphometry_job.TOO_COARSE_MM} mm apart and thick, unless --allow-thick is given.",
    "weights_unreadable": "The checkpoint holds finite plain tensors, its sidecar is there and "
    "keeps its schema; so do a clinical model and the localiser's weights.",
    "weights_mismatch": "The sidecar names the checkpoint's SHA-256, bundle and settings that "
    "this version knows, and a network that the tensors fit; a clinical model names its own "
    "SHA-256.",
    "clinical_invalid": "The clinical row is one row of a CSV in UTF-8 and has every variable "
    "that the weights or the calibration take.",
    "cohort_invalid": "A table is a CSV in UTF-8 with the columns that the command needs and no "
    "cell against its rules; row, column, value and rule are named.",
    "internal": "Nothing fails for a reason that no rule foresees.",
    # warnings: when they are given
    "label_fragments": "Pieces apart from a body of T12-L4 hold {wholeness.STRAY_SHARE:.0%} of "
    "its voxels or more; smaller ones go without a word.",
    "level_cut": "A body of T12-L4 touches an edge of the CT, or the first or last slice of the "
    "mask's own grid.",
    "level_extra": "The mask or the localiser has a T13 or L6.",
    "mask_resampled": "Points of both grids lie more than {mask_placing.GRID_TOLERANCE:.0%} of the "
    "CT's smallest spacing apart.",
    "mask_partial": "Some voxels of T12-L4 lie outside the CT: above, below, or up to "
    "{mask_placing.OUTSIDE_SHARE:.0%} beside it.",
    "segmentation_not_written": "A mask was made of a DICOM series whose headers lack what a "
    "DICOM SEG must repeat.",
    "export_not_written": "A DICOM object repeats patient, study and geometry of the CT: its "
    "headers must hold SOPClassUID, SeriesInstanceUID, StudyInstanceUID and FrameOfReferenceUID, "
    "and texts that can be read in their character set.",
    "mask_not_compared": "The localiser refuses the CT, or finds a body at fewer than "
    "{mask_sources.comparison.FEWEST_MATCHED} of the mask's levels.",
    "body_derived": "A level reaches at least {masks.DEEPEST_BODY_MM} mm from front to back and "
    "has an arch.",
    "slices_repeated": "Fewer different slices show a body than the network takes.",
    "slice_thickness": "Slices are more than {preflight.PROTOCOL_THICKNESS_MM} + "
    "{preflight.THICKNESS_SLACK_MM} mm apart or thick.",
    "slices_apart": "Slices lie more than {preflight.GAP_RATIO} times their thickness apart.",
    "resolution_coarse": "Pixels are larger than {preflight.COARSE_PIXEL_MM} mm.",
    "crop_padded": "A crop leaves the field of view by more than a voxel.",
    "simulated_weights": "The weights, or the calibration, come from simulated patients.",
    "position_unusual": "PatientPosition does not end in S (supine). Geometry comes from "
    "ImageOrientationPatient alone.",
    "position_conflict": "Rows run front-back (cosine above {dicom.reading.ALONG}) in a patient "
    "who lies supine or prone, or left-right in one who lies on a side.",
    "lossy_compression": "LossyImageCompression is 01, or it is not 00 and the transfer syntax may "
    "lose something ({dicom.slices.LOSSY_SYNTAXES}).",
    "monoenergetic": "ImageType names a virtual monoenergetic image (VMI).",
    "padding_ignored": "PixelPaddingValue lies at {dicom.pixels.TISSUE_HU} HU; any other is set to "
    "{dicom.pixels.PADDING_HU} HU.",
    "several_patients": "DICOM files of the input have different PatientIDs; without one, each "
    "study counts as another patient's.",
    "other_series_ignored": "The input holds further series of images.",
    "clinical_missing": "A clinical variable is there but empty; an absolute risk that needs it "
    "is left out.",
    "heights_coarse": "For heights slices are more than {study.morphometry_job.COARSE_MM} mm "
    "apart or thick.",
    "normal_values_crude": "The normal values are the paper's (--normal paper).",
    "out_of_distribution": "More than half of the networks place the image beyond the threshold "
    "of their training cases (by default their {calibration.outliers.QUANTILE:.0%} quantile).",
    "mask_overlaps": "Two vertebrae share at most {mask_placing.OVERLAP_SHARE} of the smaller "
    "one's voxels; what they share goes to the upper one.",
    "several_masks": "A folder or zip holds one SEG or RTSTRUCT.",
    "mask_shifted": "The gaps between T12-L4 are less dense than the bodies' ends where the mask "
    "lies: at least {along_spine.LEAST_SHARE} of the contrast that they have at the best shift "
    "along the spine, or that shift is less than {along_spine.LEAST_SHIFT_MM} mm.",
    "contours_missing": "Every slice between a structure's first and last holds a contour of it.",
    "levels_gap": "Centres of neighbours among T12-L4 lie at most {plausibility.LONGEST_STEP} "
    "times their median distance apart.",
    "body_impossible": "A whole body of T12-L4 is {plausibility.POSSIBLE[height_mm]} mm high, "
    "{plausibility.POSSIBLE[depth_mm]} mm deep, {plausibility.POSSIBLE[width_mm]} mm wide and has "
    "{plausibility.POSSIBLE[volume_ml]} ml.",
    "body_unusual": "A whole body of T12-L4 is usually {plausibility.USUAL[height_mm]} mm high, "
    "{plausibility.USUAL[depth_mm]} mm deep, {plausibility.USUAL[width_mm]} mm wide, has "
    "{plausibility.USUAL[volume_ml]} ml and less than {plausibility.NEIGHBOUR_RATIO} times its "
    "neighbour's volume.",
    "lumbar_count": "Where the mask labels the sacrum, it labels L1-L5; where the localiser sees "
    "ribs and sacrum, five bodies lie between the last one with ribs and the sacrum.",
}
"""Code → the rule behind it, with its tolerances.

What stands in braces is a constant of the package, ``{dicom.stack.TILT_TOLERANCE_DEG}``, so that
the page of codes (``docs/inputs.md``) states the number that the code uses.
"""


class CaseRefused(Exception):  # noqa: N818 - a refusal is an outcome, not a program error
    """A case does not fulfil a rule.

    Args:
        code: a key of :data:`REFUSALS`.
        message: what was found, with the offending value and the rule. Must not hold a patient's
            name or ID.
        remedy: what to do; by default the sentence of :data:`REFUSALS`.

    Raises:
        KeyError: when ``code`` is not registered.

    >>> raise CaseRefused("level_missing", "L2 has no voxel in the mask")
    Traceback (most recent call last):
    ...
    monai_vfx.errors.CaseRefused: level_missing: L2 has no voxel in the mask. All of T12, ...
    """

    def __init__(self, code: str, message: str, remedy: str | None = None) -> None:
        self.code = code
        self.message = message.rstrip(".")
        self.remedy = REFUSALS[code] if remedy is None else remedy
        super().__init__(f"{code}: {self.message}. {self.remedy}")

    def __reduce__(self) -> tuple[type[CaseRefused], tuple[str, str, str]]:
        """Survive the way back from a worker process."""
        return type(self), (self.code, self.message, self.remedy)


@dataclass(frozen=True)
class CaseWarning:
    """Something about a case that a reader of its result must know.

    Args:
        code: a key of :data:`WARNINGS`.
        message: what was found, with values and units.
    """

    code: str
    message: str

    def __post_init__(self) -> None:
        if self.code not in WARNINGS:
            raise KeyError(self.code)


class SettingError(ValueError):
    """A setting cannot be used; the message names it, its value and the rule. Wrong use: exit 2."""


class MissingDependencyError(ImportError):
    """An optional package is needed; the message holds the exact install command.

    Args:
        package: its name.
        extra: of this package that brings it, or the whole command that installs it.
        purpose: what it is needed for.

    >>> print(MissingDependencyError("WeasyPrint", "pdf", "for a PDF"))
    WeasyPrint is needed for a PDF: pip install 'monai_vfx[pdf]'
    >>> print(MissingDependencyError("A tool", "pip install a-tool", "here"))
    A tool is needed here: pip install a-tool
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        self._facts = (package, extra, purpose)
        command = extra if " " in extra else f"pip install 'monai_vfx[{extra}]'"
        super().__init__(f"{package} is needed {purpose}: {command}")

    def __reduce__(self) -> tuple[type[MissingDependencyError], tuple[str, str, str]]:
        """Survive the way back from a worker process."""
        return type(self), self._facts


def find_cause(error: BaseException | None, kind: type[E]) -> E | None:
    """Return the error of this kind that lies behind ``error``, or None.

    MONAI wraps what a transform or a part of a config raises in a ``RuntimeError``; what was
    raised is then its cause. Only causes count: an error that happened while another was handled
    is an error of its own.

    >>> try:
    ...     try:
    ...         raise CaseRefused("mask_empty", "no label")
    ...     except CaseRefused as refusal:
    ...         raise RuntimeError("applying transform") from refusal
    ... except RuntimeError as error:
    ...     find_cause(error, CaseRefused).code
    'mask_empty'
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, kind):
            return error
        seen.add(id(error))
        error = error.__cause__
    return None


def find_refusal(error: BaseException | None) -> CaseRefused | None:
    """Return the refusal that lies behind ``error``, or None; see :func:`find_cause`."""
    return find_cause(error, CaseRefused)
