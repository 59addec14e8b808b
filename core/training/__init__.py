"""Training that is not tied to one model: objectives, data sets, measures and curves, each behind a small signature."""
