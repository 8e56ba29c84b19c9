//! The meaning of a Service a second time, slow and obvious: a function for each row of the tables that define it, and
//! every list made anew for each question. It does not share a decision with the rest of `desired`; the tests here
//! compare the two over generated clusters.

mod addresses;
mod anything;
mod changes;
mod endpoints;
mod generate;
mod node;
mod one_service;
mod traffic;
