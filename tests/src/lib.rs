//! acceptd
