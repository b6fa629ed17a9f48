"""One run of the application: its folder, its stages, its Trainer."""
