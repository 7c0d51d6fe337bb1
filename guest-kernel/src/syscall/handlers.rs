//! All handlers, by the names in the list.

