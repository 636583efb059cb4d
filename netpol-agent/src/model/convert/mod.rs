//! From API objects to the model.
