//! Folders that cannot be served, each refused with the reason.
