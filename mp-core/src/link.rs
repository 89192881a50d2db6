//! The task and result rings between a pool and one worker.
