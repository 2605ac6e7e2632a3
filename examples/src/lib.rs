//! See the examples beside this file.
