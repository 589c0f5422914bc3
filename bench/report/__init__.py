"""The report of an ablation: one page, tables, curves and pictures."""
