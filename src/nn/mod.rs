//! Layers, models and their weights.
