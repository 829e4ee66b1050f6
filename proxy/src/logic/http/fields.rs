//! Lines and fields of a head: what requests and responses have in common.
