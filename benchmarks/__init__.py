"""What the sweep costs: its time, and what the app feels; as ratios within one run."""
