"""The rule behind each code, in one or two sentences, with its tolerances.

Only :mod:`monai_vfx.workflows.codes_page` reads them; they stand apart from the codes because
whoever refuses a
case needs the code alone.
"""

from __future__ import annotations

RULES: dict[str, str] = {
    "header_conflict": "An age in the table may differ from the header's by "
    "{io.dicom.facts.AGE_TOLERANCE_YEARS} year, a date by {io.dicom.facts.DATE_TOLERANCE_DAYS} "
    "day; sex "
    "must be the same. What either lacks is not compared.",
    "gate_stale": "Each row of the table must be in check.csv, with the image and the mask as they "
    "were when they were checked (size and time of each file, else the SHA-256 of the content).",
    "gate_excluded": "A row is left out when check.csv has one of the warnings that exclude.",
    "age_outside_study": "The age lies from {case.case.YOUNGEST_YEARS} to {case.case.OLDEST_YEARS} "
    "years; a header holds whole years.",
    "contrast_contradictory": "Tags, times and words of the header name one phase at most, and "
    "do not say both that medium was given and that it was not; nor does the aorta, where it is "
    "labelled, contradict them.",
    "fracture_suspected": "No ratio of heights (Ha/Hp, Hm/Hp, Hp to a neighbour's) of T12-L4 lies "
    "by {analysis.measures.suspicion.SURE_SD} SD of its measurement below "
    "{analysis.measures.suspicion.LOWEST_RATIO}.",
    "fracture_unclear": "No ratio lies below {analysis.measures.suspicion.LOWEST_RATIO} by less "
    "than "
    "{analysis.measures.suspicion.SURE_SD} SD of its measurement; for slices of more than "
    "{analysis.measures.suspicion.THICKEST_MM} mm no such SD is known, and the warning always "
    "comes.",
    "metal_or_cement": "Less than {analysis.measures.implants.LEAST_INSIDE_MM3} mm³ above "
    "{analysis.measures.implants.INSIDE_HU} HU inside the bodies, and less than "
    "{analysis.measures.implants.LEAST_BEHIND_MM3} mm³ above "
    "{analysis.measures.implants.BEHIND_HU} HU behind "
    "them.",
    # refusals: what is asked of a case
    "input_unreadable": "The path exists, may be read, and holds a DICOM file, a folder, zip "
    "(stored or deflated, not encrypted) or tar of such, a DICOMDIR, NIfTI-1 or -2 (not Analyze), "
    "NRRD or MetaImage.",
    "no_image": "A folder or zip holds at least one DICOM image, and the series named with "
    "--series; a table's row names an image.",
    "archive_too_large": "An archive holds at most {io.dicom.archives.MOST_FILES} files of at most "
    "{io.dicom.archives.LARGEST_FILE:.1e} bytes; above {io.dicom.archives.SAFE_SIZE:.1e} bytes in "
    "all at "
    "most {io.dicom.archives.TIGHTEST} times its own size; never more than "
    "{io.dicom.archives.LARGEST_ARCHIVE:.1e}. A deflated DICOM file holds at most "
    "{io.dicom.inflating.LARGEST_INFLATED:.1e} bytes.",
    "files_missing": "Every CT file that a DICOMDIR names is there; with --series, every one of "
    "that series.",
    "file_truncated": "Every DICOM file of the series is whole: its header can be read, and as "
    "many bytes of pixels follow as it announces (compressed: the end mark, and they decode). So "
    "is every file whose header does not show that it belongs elsewhere. A zip, a tar, a gzip and "
    "a NIfTI, NRRD or mask end where their headers say, with the right sum; in a NRRD or MetaImage "
    "no byte is left after the voxels.",
    "file_missing": "A `.hdr` has its `.img` beside it and the other way round; the one data file "
    "that a NRRD or MetaImage header names is there.",
    "not_ct": "Modality is CT in every slice; localizers (ImageType) and secondary captures do "
    "not count as one.",
    "several_series": "Without --series one CT series is left by the criteria: it passes the "
    "checks of its headers; at least {io.dicom.choosing.LEAST_LENGTH_MM} mm long and no other part "
    "of the body; axial; original; soft-tissue kernel; thinnest slices; longest (by more than "
    "{io.dicom.choosing.SAME_LENGTH_MM} mm); most closely spaced.",
    "series_mixed": "All slices share Rows, Columns, PixelSpacing, FrameOfReferenceUID and, "
    "within {io.dicom.stack.DIRECTION_TOLERANCE}, the direction cosines; their corners lie within "
    "{io.dicom.stack.ASIDE_TOLERANCE_MM} mm of the line through the first and the last.",
    "geometry_missing": "Every slice has ImagePositionPatient, ImageOrientationPatient, "
    "PixelSpacing, Rows and Columns; a NIfTI an sform or a qform; a NRRD `space`, `space "
    "origin` and three `space directions`; a MetaImage `TransformMatrix`, `Offset` and "
    "`ElementSpacing`.",
    "geometry_invalid": "These are finite and of the right count; direction cosines are unit "
    "vectors at right angles within {io.dicom.stack.ORTHONORMAL_TOLERANCE}; voxels are at least "
    "{io.volume.LEAST_SPACING_MM} mm wide, their axes at right angles (cosine at most "
    "{io.volume.SKEW_TOLERANCE}) and at most {io.volume.LARGEST_TURN_DEG} degrees off the "
    "patient's; "
    "there are at most {io.volume.MOST_VOXELS:.0e} voxels.",
    "forms_disagree": "Where a NIfTI has an sform and a qform, they place no corner of the volume "
    "more than {io.nifti.FORMS_TOLERANCE_MM} mm apart; the sform is taken.",
    "units_not_mm": "The unit of a NIfTI (`xyzt_units`) or NRRD (`space units`) is mm, or none is "
    "stated.",
    "too_few_slices": "There are at least {io.dicom.stack.SHORTEST_SERIES} slices.",
    "slices_duplicated": "Positions on the slice normal differ by at least "
    "{io.dicom.stack.SAME_PLACE_MM} mm.",
    "phases_overlap": "No tag of {io.dicom.stack.PHASE_TAGS} divides the slices into even stacks "
    "that "
    "share half of their length, and fewer than {io.dicom.stack.SHORTEST_SERIES} neighbouring "
    "slices "
    "share their positions with others.",
    "slices_missing": "No slice distance is a multiple of their median; all parts of an Enhanced "
    "object are there.",
    "spacing_uneven": "No slice distance differs from their median by more than "
    "{io.dicom.stack.SPACING_TOLERANCE:.0%} of it or, if that is more, "
    "{io.dicom.stack.SPACING_SLACK_MM} mm.",
    "gantry_tilt": "The line through the slices' corners lies at most "
    "{io.dicom.stack.TILT_TOLERANCE_DEG} degrees off the slice normal.",
    "multiframe": "An Enhanced object has functional groups for each of its frames, and they are "
    "one stack.",
    "uid_invalid": "Each slice has a SOPInstanceUID, and no other slice has the same.",
    "pixel_format": "SamplesPerPixel, PhotometricInterpretation, BitsAllocated "
    "({io.dicom.slices.BITS_ALLOCATED}), BitsStored (more than 8), HighBit (one less) and "
    "PixelRepresentation are there and fit each other, and no value needs more bits. A compressed "
    "picture has the rows, columns and samples that the header states.",
    "syntax_unsupported": "The transfer syntax is stated, and a decoder for it is installed.",
    "slices_too_thick": "Slices lie at most {io.dicom.choosing.LARGEST_SPACING_MM} mm apart.",
    "not_volume": "Voxels are single numbers on three axes; further axes have one frame.",
    "not_hounsfield": "RescaleSlope (above 0) and RescaleIntercept are there, RescaleType is HU, "
    "US or absent, ImageType names no map made from several energies, PhotometricInterpretation is "
    "MONOCHROME2; values around the spine are finite, some below {case.case.FAT_HU} (fat), some "
    "above {case.case.BONE_HU} (bone), none beyond ±{case.case.MOST_HU}.",
    "hu_implausible": "Around T12-L4 at least {case.checks.hounsfield.LEAST_BODY_SHARE:.0%} of "
    "the values lie at "
    "{case.checks.hounsfield.BODY_HU} HU, their main peak lies at "
    "{case.checks.hounsfield.MAIN_PEAK_HU} HU, and fat and soft "
    "tissue, where both have a peak, peak {case.checks.hounsfield.PEAKS_APART_HU} HU apart (soft "
    "tissue's "
    "highest peak or one at least half as high); from each slice to the next, values within the "
    "body differ by at most {case.checks.hounsfield.LARGEST_STEP_HU} HU (median).",
    "size_implausible": "Pixels are {case.case.LEAST_PIXEL_MM} to {case.case.MOST_PIXEL_MM} mm "
    "wide, slices {case.case.LEAST_FIELD_MM} to {case.case.MOST_FIELD_MM} mm, and the stack is "
    "{case.case.LEAST_EXTENT_MM} to {case.case.MOST_EXTENT_MM} mm long.",
    "identity_conflict": "All slices have the same PatientID.",
    "pacs_unreachable": "The service takes a connection within "
    "{io.dicomweb.client.CONNECT_TIMEOUT_S} s and sends something every "
    "{io.dicomweb.client.READ_TIMEOUT_S} s, "
    "over TLS with a trusted certificate where the address says so; redirections are not followed.",
    "pacs_denied": "The service does not answer 401 or 403.",
    "not_in_pacs": "The service lists the study and the series.",
    "retrieval_incomplete": "Every instance that the service lists for a series arrives and can be "
    "kept.",
    "pacs_error": "The service answers with success, in the form that DICOM PS3.18 prescribes.",
    "store_failed": "The service confirms each object that is stored, or shows it when asked.",
    "mask_required": "There is a mask, or the vertebra segmentation or a tool makes one.",
    "mask_unreadable": "The mask is a NIfTI, NRRD or MetaImage label map or a folder of such, and "
    "may be read.",
    "mask_empty": "At least one voxel belongs to T12-L4.",
    "mask_labels_unknown": "Labels are known by the file's own names, by --labels, or by numbers "
    "of one scheme that at least {case.mask.schemes.FEWEST_LEVELS} of T12-L4 follow from head to "
    "feet, {case.mask.schemes.STEP_MM} mm apart; files of a folder are named after structures.",
    "mask_grid_mismatch": "At most {case.mask.resample.OUTSIDE_SHARE:.0%} of the voxels of T12-L4 "
    "lie "
    "beside the CT, and some lie in it.",
    "mask_off_bone": "The bodies' outer {case.checks.bone_overlap.SHELL_MM} mm have an upper "
    "quartile of at least "
    "{case.checks.bone_overlap.LEAST_HU} HU and are denser than the ring "
    "{case.checks.bone_overlap.RING_MM} mm around them with a "
    "probability of at least {case.checks.bone_overlap.LEAST_CONTRAST} (medians over the levels; "
    "at the best of "
    "shifts by {case.checks.bone_overlap.SLACK_MM} mm and a mask wider or narrower by "
    "{case.checks.bone_overlap.GROWTH_MM[2]} mm).",
    "mask_fractional": "Values of a label map lie within {io.label_map.WHOLE_TOLERANCE} of whole "
    "numbers below 2^53.",
    "level_missing": "T12, L1, L2, L3 and L4 are all there, in the mask and in the CT; a level "
    "that is not cut has at least {case.checks.fragments.LEAST_SHARE:.0%} of their median volume; "
    "the "
    "segmentation sees all five whole, with a probability of at least "
    "{vertebrae.segmentation.locate.LEAST_IN_VIEW}.",
    "levels_out_of_order": "The centroids of the levels follow each other from head to feet.",
    "mask_disagrees": "No body of a given mask whose centre lies within "
    "{vertebrae.sources.comparison.SAME_BODY_MM} mm of one of the segmentation's has another name "
    "there "
    "(--compare-mask).",
    "mask_not_made": "TotalSegmentator, where it was asked for, ends with status 0 and a label "
    "map.",
    "spine_not_found": "The vertebra segmentation finds at least "
    "{vertebrae.segmentation.spine.FEWEST_BODIES} vertebral "
    "bodies in a row, not all of the neck.",
    "level_uncertain": "The vertebra segmentation is sure that T12 to L4 are named right: its "
    "probability is "
    "at least {vertebrae.segmentation.naming.THRESHOLD}, or what its weights' naming.json says.",
    "heights_too_coarse": "For heights (vfx morphometry) slices are at most "
    "{analysis.morphometry.job.TOO_COARSE_MM} mm apart and thick, unless --allow-thick is given.",
    "weights_unreadable": "The checkpoint holds finite plain tensors, its sidecar is there and "
    "keeps its schema; so do a clinical model and the vertebra segmentation's weights.",
    "weights_mismatch": "The sidecar names the checkpoint's SHA-256, bundle and settings that "
    "this version knows, and a network that the tensors fit; a clinical model names its own "
    "SHA-256.",
    "clinical_invalid": "The clinical row is one row of a CSV in UTF-8 and has every variable "
    "that the weights or the calibration take.",
    "cohort_invalid": "A table is a CSV in UTF-8 with the columns that the command needs and no "
    "cell against its rules; row, column, value and rule are named.",
    "internal": "Nothing fails for a reason that no rule foresees.",
    # warnings: when they are given
    "label_fragments": "Pieces apart from a body of T12-L4 hold "
    "{case.checks.fragments.STRAY_SHARE:.0%} of "
    "its voxels or more; smaller ones go without a word.",
    "level_cut": "A body of T12-L4 touches an edge of the CT, or the first or last slice of the "
    "mask's own grid.",
    "level_extra": "The mask or the vertebra segmentation has a T13 or L6.",
    "mask_resampled": "Points of both grids lie more than {case.mask.resample.GRID_TOLERANCE:.0%} "
    "of the "
    "CT's smallest spacing apart.",
    "mask_partial": "Some voxels of T12-L4 lie outside the CT: above, below, or up to "
    "{case.mask.resample.OUTSIDE_SHARE:.0%} beside it.",
    "segmentation_not_written": "A mask was made of a DICOM series whose headers lack what a "
    "DICOM SEG must repeat.",
    "export_not_written": "A DICOM object repeats patient, study and geometry of the CT: its "
    "headers must hold SOPClassUID, SeriesInstanceUID, StudyInstanceUID and FrameOfReferenceUID, "
    "and texts that can be read in their character set.",
    "mask_not_compared": "The vertebra segmentation refuses the CT, or finds a body at fewer than "
    "{vertebrae.sources.comparison.FEWEST_MATCHED} of the mask's levels.",
    "body_derived": "A level reaches at least {case.mask.load.DEEPEST_BODY_MM} mm from front to "
    "back and "
    "has an arch.",
    "slices_repeated": "Fewer different slices show a body than the network takes.",
    "slice_thickness": "Slices are more than {case.case.PROTOCOL_THICKNESS_MM} + "
    "{case.case.THICKNESS_SLACK_MM} mm apart or thick.",
    "slices_apart": "Slices lie more than {case.case.GAP_RATIO} times their thickness apart.",
    "resolution_coarse": "Pixels are larger than {case.case.COARSE_PIXEL_MM} mm.",
    "crop_padded": "A crop leaves the field of view by more than a voxel.",
    "simulated_weights": "The weights, or the calibration, come from simulated patients.",
    "position_unusual": "PatientPosition does not end in S (supine). Geometry comes from "
    "ImageOrientationPatient alone.",
    "position_conflict": "Rows run front-back (cosine above {io.dicom.reading.ALONG}) in a patient "
    "who lies supine or prone, or left-right in one who lies on a side.",
    "lossy_compression": "LossyImageCompression is 01, or it is not 00 and the transfer syntax may "
    "lose something ({io.dicom.slices.LOSSY_SYNTAXES}).",
    "monoenergetic": "ImageType names a virtual monoenergetic image (VMI).",
    "padding_ignored": "PixelPaddingValue lies at {io.dicom.pixels.TISSUE_HU} HU; any other is "
    "set to "
    "{io.dicom.pixels.PADDING_HU} HU.",
    "several_patients": "DICOM files of the input have different PatientIDs; without one, each "
    "study counts as another patient's.",
    "other_series_ignored": "The input holds further series of images.",
    "clinical_missing": "A clinical variable is there but empty; an absolute risk that needs it "
    "is left out.",
    "heights_coarse": "For heights slices are more than {analysis.morphometry.job.COARSE_MM} mm "
    "apart or thick.",
    "normal_values_crude": "The normal values are the paper's (--normal paper).",
    "out_of_distribution": "More than half of the networks place the image beyond the threshold "
    "of their training cases (by default their {analysis.calibration.outliers.QUANTILE:.0%} "
    "quantile).",
    "mask_overlaps": "Two vertebrae share at most {case.mask.resample.OVERLAP_SHARE} of the "
    "smaller "
    "one's voxels; what they share goes to the upper one.",
    "several_masks": "A folder or zip holds one SEG or RTSTRUCT.",
    "mask_shifted": "The gaps between T12-L4 are less dense than the bodies' ends where the mask "
    "lies: at least {case.checks.craniocaudal_shift.LEAST_SHARE} of the contrast that they have "
    "at the best shift "
    "along the spine, or that shift is less than {case.checks.craniocaudal_shift.LEAST_SHIFT_MM} "
    "mm.",
    "contours_missing": "Every slice between a structure's first and last holds a contour of it.",
    "levels_gap": "Centres of neighbours among T12-L4 lie at most "
    "{case.checks.body_size.LONGEST_STEP} "
    "times their median distance apart.",
    "body_impossible": "A whole body of T12-L4 is {case.checks.body_size.POSSIBLE[height_mm]} mm "
    "high, "
    "{case.checks.body_size.POSSIBLE[depth_mm]} mm deep, "
    "{case.checks.body_size.POSSIBLE[width_mm]} mm wide and has "
    "{case.checks.body_size.POSSIBLE[volume_ml]} ml.",
    "body_unusual": "A whole body of T12-L4 is usually {case.checks.body_size.USUAL[height_mm]} "
    "mm high, "
    "{case.checks.body_size.USUAL[depth_mm]} mm deep, {case.checks.body_size.USUAL[width_mm]} mm "
    "wide, has "
    "{case.checks.body_size.USUAL[volume_ml]} ml and less than "
    "{case.checks.body_size.NEIGHBOUR_RATIO} times its "
    "neighbour's volume.",
    "lumbar_count": "Where the mask labels the sacrum, it labels L1-L5; where the vertebra "
    "segmentation sees "
    "ribs and sacrum, five bodies lie between the last one with ribs and the sacrum.",
}
"""Code → the rule behind it, with its tolerances.

What stands in braces is a constant of the package, ``{io.dicom.stack.TILT_TOLERANCE_DEG}``, so that
the page of codes (``docs/inputs.md``) states the number that the code uses.
"""
