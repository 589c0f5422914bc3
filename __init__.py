"""aoi: invented defects, anomaly detection and leak-free ablation for automated optical inspection."""

__version__ = "0.1.0"
