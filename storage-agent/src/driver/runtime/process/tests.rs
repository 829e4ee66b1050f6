//! Processes of a runtime, started, stopped and adopted.
