"""Facts of one case that need its mask and voxels: noise, bone, aorta, fractures, metal.

:func:`monai_vfx.analysis.measures.measured.measured_facts` gathers them; each module below it
measures one
thing and says so where it cannot be told.
"""
