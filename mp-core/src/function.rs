//! Functions that travel.
