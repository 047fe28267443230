"""The one contract of metric and log names, and how they leave the process.

```
schema.py       every metric and log field, declared once     attributes.py: their labels; metric.py: terms
instruments.py  instruments built from the declarations; refuses what is not declared
serving.py      what both applications record                 detection.py, recommendation.py: each its own
process.py      heartbeat, memory, CPU                        gpu.py: NVML
logs.py         one record, to the console and to OTLP        redaction.py: without secrets and images
outbox.py       lines wait here until the collector has them
providers.py    start(): one Telemetry per process            otlp.py: how it leaves, as the environment says
docs.py         the contract as Markdown
```

Imports nothing of ours, so that every other package may use it; knows no Ray, no HTTP, no torch.
"""
