"""The vision core: arrays in, arrays out.

Belongs here: everything that turns pictures and boxes into pictures and boxes (video, preprocessing, detectors, NMS,
fusion, tracking, anonymisation, validation), usable alone in a notebook.
Does not belong here: Dagster, databases, object stores, settings read from the environment.
"""
