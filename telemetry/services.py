"""Who speaks: the values of `service.name`."""

NAMESPACE = "glasshouse"
DETECTION = "detection"
RECOMMENDATION = "recommendation"
SERVING = (DETECTION, RECOMMENDATION)
STORE = "store"  # the shippers, one a node
EVERYBODY = (*SERVING, STORE)
