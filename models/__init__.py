"""Arrays in, arrays out: the detector, the recommender, and what they are loaded from.

`artifacts` fetches, `images` decodes, `detector` finds, `recommender` ranks. Knows no Ray, no HTTP and no
telemetry, so that serving and jobs share it.
"""
