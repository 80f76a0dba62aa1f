//! Parameter counts and multiply-adds against the published ones.

use std::collections::BTreeMap;

use super::golden_families;
use crate::nn::{ModelSpec, NormPlace, Summary, VitNames, VitSpec};
use crate::ops::Act;

fn summary(name: &str) -> Summary {
    let spec = ModelSpec::by_name(name).unwrap();
    spec.plan().summary([spec.image(); 2]).unwrap()
}

#[test]
fn parameters_are_the_published_ones() {
    let published = [
        ("resnet20", 269_722),
        ("resnet32", 464_154),
        ("resnet44", 658_586),
        ("resnet56", 853_018),
        ("resnet110", 1_727_962),
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("mobilenet_v2", 3_504_872),
        ("mobilenet_v2_x0.5", 1_968_680),
        ("mobilenet_v2_x1.4", 6_108_776),
        ("deit_tiny", 5_717_416),
        ("deit_small", 22_050_664),
        ("deit_base", 86_567_656),
        ("vit_small32", 683_242),
        ("mnist_cnn", 376_870),
    ];
    let ours: Vec<_> = published.iter().map(|(name, _)| (*name, summary(name).params)).collect();
    assert_eq!(ours, published);
}

#[test]
fn statistics_are_counted_apart() {
    // The published file holds 376,938 values.
    let s = summary("mnist_cnn");
    assert_eq!((s.params + s.statistics, s.weight_bytes), (376_938, 4 * 376_938));
}

#[test]
fn multiply_adds_are_the_published_ones() {
    // Millions; torchvision's own counts (fvcore) for its networks, attack.md's for the transformers.
    let published = [
        ("resnet20", 40.55),
        ("resnet18", 1814.07),
        ("resnet34", 3663.76),
        ("resnet50", 4089.18),
        ("mobilenet_v2", 300.77),
        ("deit_tiny", 1253.7),
        ("deit_small", 4598.9),
        ("deit_base", 17_563.8),
        ("vit_small32", 48.3),
    ];
    for (name, want) in published {
        let ours = summary(name).multiply_adds as f64 / 1e6;
        assert!((ours / want - 1.0).abs() < 1e-3, "{name}: {ours} million, published {want}");
    }
}

#[test]
fn rows_add_up_to_the_totals() {
    for name in ["resnet20", "resnet50", "resnet18_cifar_x0.25", "mobilenet_v2", "deit_tiny", "mnist_cnn"] {
        let s = summary(name);
        assert_eq!(s.rows.iter().map(|r| r.params).sum::<u64>(), s.params, "{name}");
    }
}

#[test]
fn resnet18_halves_the_image_where_torchvision_does() {
    let s = summary("resnet18");
    let output = |name: &str| s.rows.iter().find(|r| r.name == name).map(|r| r.output.clone());
    assert_eq!(output("conv1"), Some(vec![112, 112, 64]));
    assert_eq!(output("layer1.0.conv1"), Some(vec![56, 56, 64]));
    assert_eq!(output("layer2.0.downsample.0"), Some(vec![28, 28, 128]));
    assert_eq!(output("layer4.1.conv2"), Some(vec![7, 7, 512]));
    // The stem's output, the largest map, beside the pooled one it turns into.
    assert_eq!(s.activation_bytes, 4 * (112 * 112 * 64 + 56 * 56 * 64));
}

#[test]
fn cifar_stems_keep_the_image() {
    let first = |name: &str| summary(name).rows[0].output.clone();
    assert_eq!(first("resnet18_cifar"), [32, 32, 64]);
    assert_eq!(first("mobilenet_v2_cifar"), [32, 32, 32]);
    let last_map = |name: &str| summary(name).rows.iter().rev().find(|r| r.output.len() == 3).unwrap().output.clone();
    assert_eq!(last_map("mobilenet_v2_cifar"), [4, 4, 1280]);
    assert_eq!(last_map("mobilenet_v2"), [7, 7, 1280]);
}

#[test]
fn a_block_that_pads_its_shortcut_has_no_more_tensors() {
    let names = |name: &str| ModelSpec::by_name(name).unwrap().plan().params.len();
    assert_eq!(names("resnet20"), 19 * 5 + 2);
}

#[test]
fn wrong_images_are_refused() {
    let refuse =
        |name: &str, side| ModelSpec::by_name(name).unwrap().plan().summary([side; 2]).unwrap_err().to_string();
    assert_eq!(refuse("deit_tiny", 64), "an image of 64x64 pixels gives 17 tokens, the weights have 197");
    assert!(refuse("mnist_cnn", 32).contains("made for 11616 inputs"));
    assert!(refuse("mnist_cnn", 4).contains("below the window"));
}

#[test]
fn names_of_networks_are_read_with_their_variants() {
    let spec = |name: &str| ModelSpec::by_name(name).map(|s| s.to_string());
    assert_eq!(spec("ResNet-20").unwrap(), "CIFAR ResNet-20, 10 classes");
    assert_eq!(spec("resnet50").unwrap(), "ResNet-50, 1000 classes");
    assert_eq!(spec("cifar_resnet50").unwrap(), "CIFAR ResNet-50, 10 classes");
    assert_eq!(spec("resnet18_cifar_x0.25").unwrap(), "ResNet-18, 16 channels, CIFAR stem, 10 classes");
    assert_eq!(
        spec("deit_tiny_patch16_224").unwrap(),
        "ViT, width 192, 12 blocks, 3 heads, pre-norm, gelu, patch 16, 1000 classes"
    );
    for wrong in ["resnet21", "resnet", "resnet2", "resnet20_cifar", "vgg16", "", "deit_tiny_x0.5", "resnet20_xNaN"] {
        assert!(spec(wrong).unwrap_err().to_string().starts_with("no network is called"), "{wrong}");
    }
}

#[test]
fn separate_q_k_v_has_as_many_parameters_as_packed() {
    let packed = VitSpec::timm(32, 4, 96, 6, 3, 10);
    let mut separate = packed.clone();
    separate.names = VitNames { qkv: crate::nn::QkvNames::Separate("attn.q", "attn.k", "attn.v"), ..VitNames::timm() };
    separate.norm = NormPlace::Post;
    separate.act = Act::Relu;
    let count = |s: &VitSpec| s.plan().params.n_trained();
    assert_eq!(count(&packed), count(&separate));
    let no_bias = VitSpec { qkv_bias: false, ..packed.clone() };
    assert_eq!(count(&packed) - count(&no_bias), 6 * 3 * 96);
}

#[test]
fn tensors_are_those_of_the_golden_networks() {
    for (family, name) in [
        ("resnet18", "resnet18"),
        ("resnet50", "resnet50"),
        ("resnet18_cifar_quarter", "resnet18_cifar_x0.25"),
        ("mobilenet_v2", "mobilenet_v2"),
        ("deit_tiny_patch16_224", "deit_tiny"),
        ("vit_small32", "vit_small32"),
    ] {
        let golden = &golden_families()[family];
        let spec = ModelSpec::by_name(name).unwrap();
        let ours: BTreeMap<String, Vec<usize>> =
            spec.plan().params.iter().map(|p| (p.name.clone(), p.shape.clone())).collect();
        let theirs: BTreeMap<String, Vec<usize>> = serde_json::from_value(golden["tensors"].clone()).unwrap();
        assert_eq!(ours, theirs, "{family}");
        assert_eq!(golden["parameters"].as_u64(), Some(spec.plan().params.n_trained()), "{family}");
    }
}
