//! Every op against its f64 reference on the adapter under test.

#![allow(unreachable_pub, dead_code, reason = "the support modules are shared by several test binaries")]

#[path = "../support/mod.rs"]
mod support;

mod attention;
mod attention_backward;
mod augment;
mod autograd;
mod bank;
mod bank_blend;
mod bank_ring;
mod basis;
mod conv;
mod conv_bwd;
mod conv_coop;
mod elementwise;
mod gather;
mod half;
mod kmeans;
mod loss_scale;
mod matmul;
mod matmul_coop;
mod norm;
mod optim;
mod plan;
mod planted;
mod pool;
mod quant;
mod random;
mod reduce;
mod rotary;
mod runtime;
mod scatter;
mod softmax;
mod sort;
mod topk;
mod tune;
mod views;
