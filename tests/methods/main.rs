//! Whole networks and methods on the adapter under test.

#![allow(unreachable_pub, dead_code, reason = "the support modules are shared by several test binaries")]

#[path = "../support/mod.rs"]
mod support;

mod branch;
mod classify;
mod finetune;
mod formula;
mod half;
mod models;
mod published;
mod reference;
mod ssl_eval;
mod ssl_files;
mod ssl_train;
mod text;
mod train;
