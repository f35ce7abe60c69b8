"""Clinical models A-D and imaging baselines: what a deep model is compared with."""
