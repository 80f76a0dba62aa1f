//! Networks read off names and shapes.

use super::{data, golden_families, header_of};
use crate::nn::{
    Block, Header, Hints, ModelSpec, NormPlace, QkvNames, ResNetSpec, ShortcutKind, Stem, TextSpec, TokenPool,
    VitNames, VitSpec, identify,
};
use crate::ops::Act;

fn read(header: &Header) -> ModelSpec {
    identify(header, &Hints::default()).unwrap().spec
}

fn vit(spec: VitSpec) -> ModelSpec {
    ModelSpec::Vit(Box::new(spec))
}

/// The names of torch's `TransformerEncoderLayer`, as the small published transformer has them.
fn torch_names() -> VitNames {
    VitNames {
        blocks: "transformer.layers.".into(),
        qkv: QkvNames::Packed("self_attn.in_proj_weight", "self_attn.in_proj_bias"),
        proj: "self_attn.out_proj",
        fc1: "linear1",
        fc2: "linear2",
        norm: Some("mlp_head.0"),
        head: "mlp_head.1",
        ..VitNames::timm()
    }
}

fn hugging_face_names() -> VitNames {
    VitNames {
        patch: "vit.embeddings.patch_embeddings.projection",
        class_token: Some("vit.embeddings.cls_token"),
        position: "vit.embeddings.position_embeddings",
        blocks: "vit.encoder.layer.".into(),
        qkv: QkvNames::Separate("attention.attention.query", "attention.attention.key", "attention.attention.value"),
        proj: "attention.output.dense",
        norm1: "layernorm_before",
        norm2: "layernorm_after",
        fc1: "intermediate.dense",
        fc2: "output.dense",
        norm: Some("vit.layernorm"),
        head: "classifier",
    }
}

#[test]
fn every_convolutional_network_is_read_off_its_own_tensors() {
    let names = [
        "resnet8",
        "resnet20",
        "resnet32",
        "resnet44",
        "resnet56",
        "resnet110",
        "resnet20_x2",
        "cifar_resnet50",
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet152",
        "resnet50_x0.5",
        "resnet18_cifar",
        "resnet18_cifar_x0.25",
        "resnet50_cifar",
        "mobilenet_v2",
        "mobilenet_v2_x0.35",
        "mobilenet_v2_x1.4",
        "mnist_cnn",
    ];
    for name in names {
        let mut spec = ModelSpec::by_name(name).unwrap();
        for classes in [spec.classes(), 7] {
            spec.set_classes(classes);
            assert_eq!(read(&header_of(&spec)), spec, "{name}");
        }
    }
}

#[test]
fn option_b_shortcuts_and_other_stage_counts_are_read() {
    let spec = ResNetSpec {
        stages: vec![3, 1, 2, 5, 1],
        width: 24,
        block: Block::Bottleneck,
        stem: Stem::Cifar,
        shortcut: ShortcutKind::Project("shortcut"),
        head: "linear",
        channels: 1,
        classes: 3,
    };
    let spec = ModelSpec::ResNet(spec);
    assert_eq!(read(&header_of(&spec)), spec);
}

#[test]
fn cifar_layout_needs_no_hint_and_uses_imagenet_normalisation() {
    let found = identify(&header_of(&ModelSpec::by_name("resnet44").unwrap()), &Hints::default()).unwrap();
    let (spec, normalize) = found.settled().unwrap();
    assert_eq!((spec.to_string().as_str(), normalize.as_str()), ("CIFAR ResNet-44, 10 classes", "imagenet"));
}

#[test]
fn transformers_of_every_naming_are_read() {
    let base = VitSpec { eps: 1e-5, heads: 1, ..VitSpec::timm(48, 8, 80, 3, 1, 5) };
    let no_class = VitNames { class_token: None, norm: Some("fc_norm"), ..VitNames::timm() };
    let separate = QkvNames::Separate("attn.q_proj", "attn.k_proj", "attn.v_proj");
    let torchvision = VitNames {
        patch: "conv_proj",
        class_token: Some("class_token"),
        position: "encoder.pos_embedding",
        blocks: "encoder.layers.encoder_layer_".into(),
        qkv: QkvNames::Packed("self_attention.in_proj_weight", "self_attention.in_proj_bias"),
        proj: "self_attention.out_proj",
        norm1: "ln_1",
        norm2: "ln_2",
        fc1: "mlp.0",
        fc2: "mlp.3",
        norm: Some("encoder.ln"),
        head: "heads.head",
    };
    let specs = [
        VitSpec { eps: 1e-6, ..base.clone() },
        VitSpec { eps: 1e-6, pool: TokenPool::Mean, names: no_class, ..base.clone() },
        VitSpec { names: torch_names(), mlp: 100, ..base.clone() },
        VitSpec { names: VitNames { qkv: separate, proj: "attn.out_proj", ..VitNames::timm() }, ..base.clone() },
        VitSpec { eps: 1e-12, names: hugging_face_names(), ..base.clone() },
        VitSpec { eps: 1e-6, names: torchvision, ..base.clone() },
        VitSpec { eps: 1e-6, qkv_bias: false, ..base },
    ];
    for spec in specs {
        let spec = vit(spec);
        assert_eq!(read(&header_of(&spec)), spec);
    }
}

#[test]
fn golden_networks_are_identified() {
    for (family, golden) in golden_families() {
        let shapes: std::collections::BTreeMap<String, Vec<usize>> =
            serde_json::from_value(golden["tensors"].clone()).unwrap();
        let header = Header::from_shapes("w.safetensors", shapes);
        let heads = golden.get("heads").and_then(|h| h.as_u64()).map(|h| h as usize);
        let found = identify(&header, &Hints { heads, ..Hints::default() }).unwrap();
        assert!(header.compare(&found.spec.plan().params, "it").is_fit(), "{family}");
        if let ModelSpec::Vit(spec) = &found.spec {
            assert_eq!((spec.norm, spec.act, spec.eps), (NormPlace::Pre, Act::Gelu, 1e-6), "{family}");
            assert_eq!(found.open, ["--normalize imagenet|cifar|unit|MEAN/STD"], "{family}");
        }
    }
}

#[test]
fn open_questions_are_asked_all_at_once_and_no_others() {
    let torch = vit(VitSpec { names: torch_names(), ..VitSpec::timm(32, 4, 128, 6, 8, 10) });
    let header = header_of(&torch);
    let ask = |hints: Hints| identify(&header, &hints).unwrap().settled().unwrap_err().to_string();
    assert_eq!(
        ask(Hints::default()),
        "w.safetensors: a ViT's weights, whose names and shapes leave something open: give --heads H, --norm pre|post, \
         --act relu|gelu, --normalize imagenet|cifar|unit|MEAN/STD (or a w.json beside them)"
    );
    let some =
        Hints { heads: Some(8), norm: Some(NormPlace::Post), normalize: Some("unit".into()), ..Hints::default() };
    assert!(ask(some.clone()).contains("give --act relu|gelu (or"));
    let all = Hints { act: Some(Act::Relu), ..some };
    let (spec, normalize) = identify(&header, &all).unwrap().settled().unwrap();
    let ModelSpec::Vit(spec) = spec else { panic!("a ViT was written") };
    assert_eq!((spec.heads, spec.norm, spec.act), (8, NormPlace::Post, Act::Relu));
    assert_eq!(normalize, "unit");
}

#[test]
fn timm_names_leave_only_the_heads_and_an_arch_settles_them() {
    let header = header_of(&ModelSpec::by_name("deit_small").unwrap());
    let hints = Hints { normalize: Some("imagenet".into()), ..Hints::default() };
    assert_eq!(identify(&header, &hints).unwrap().open, ["--heads H"]);
    let hints = Hints { arch: Some("deit_small".into()), ..hints };
    let (spec, _) = identify(&header, &hints).unwrap().settled().unwrap();
    assert_eq!(spec, ModelSpec::by_name("deit_small").unwrap());
}

#[test]
fn mobilenet_of_few_classes_asks_for_its_stem() {
    let mut spec = ModelSpec::by_name("mobilenet_v2_cifar").unwrap();
    spec.set_classes(10);
    let found = identify(&header_of(&spec), &Hints::default()).unwrap();
    assert_eq!(found.open, ["--arch mobilenet_v2|mobilenet_v2_cifar"]);
    let hints = Hints { arch: Some("mobilenet_v2_cifar".into()), ..Hints::default() };
    let found = identify(&header_of(&spec), &hints).unwrap();
    assert_eq!((found.spec, found.open), (spec, vec!["--normalize imagenet|cifar|unit|MEAN/STD"]));
}

#[test]
fn a_missing_or_mis_shaped_tensor_does_not_change_what_the_network_is() {
    for name in ["resnet20", "resnet18", "resnet50_x0.5", "mobilenet_v2", "mnist_cnn", "vit_small32"] {
        let mut spec = ModelSpec::by_name(name).unwrap();
        if let ModelSpec::Vit(v) = &mut spec {
            v.heads = 1; // open
        }
        let shapes: Vec<_> = spec.plan().params.iter().map(|p| (p.name.clone(), p.shape.clone())).collect();
        for i in 0..shapes.len() {
            let mut less = shapes.clone();
            less.remove(i);
            let header = Header::from_shapes("w.safetensors", less);
            let report = header.compare(&read(&header).plan().params, "it").to_string();
            let want = format!("does not fit it (1 missing tensors): missing {} {:?}", shapes[i].0, shapes[i].1);
            assert_eq!(report, want, "{name}");
            let mut wrong = shapes.clone();
            *wrong[i].1.last_mut().unwrap() += 1;
            let (got, header) = (wrong[i].1.clone(), Header::from_shapes("w.safetensors", wrong));
            let report = header.compare(&read(&header).plan().params, "it").to_string();
            let part = format!("mis-shaped {} {got:?}, needed {:?}", shapes[i].0, shapes[i].1);
            assert_eq!(report, format!("does not fit it (1 mis-shaped tensors): {part}"), "{name}");
        }
    }
}

#[test]
fn weights_of_another_kind_are_recognised_as_such() {
    let arch = |name: &str| Hints { arch: Some(name.into()), ..Hints::default() };
    let refuse = |header: &Header, hints: &Hints| identify(header, hints).unwrap_err().to_string();
    let vit = header_of(&ModelSpec::by_name("deit_tiny").unwrap());
    assert_eq!(
        refuse(&vit, &arch("resnet20")),
        "w.safetensors: these look like a ViT's tensors (blocks.0.attn.qkv.weight ...), not a ResNet's"
    );
    let resnet = header_of(&ModelSpec::by_name("resnet20").unwrap());
    assert_eq!(
        refuse(&resnet, &arch("mnist_cnn")),
        "w.safetensors: these look like a ResNet's tensors (layer1.0.conv1.weight ...), not an MNIST CNN's"
    );
    let llama = Header::from_shapes("w.safetensors", [("layers.0.attention.wq.weight".to_string(), vec![64, 64])]);
    assert_eq!(
        identify(&llama, &Hints::default()).unwrap().settled().unwrap_err().to_string(),
        "w.safetensors: these are a language model's tensors, not those of a network for images"
    );
    let nothing = Header::from_shapes("w.safetensors", [("a".to_string(), vec![1])]);
    assert!(refuse(&nothing, &Hints::default()).contains("no network known here"));
    let empty = Header::from_shapes("w.safetensors", []);
    assert!(refuse(&empty, &Hints::default()).contains("no tensors"));
}

#[test]
fn an_arch_of_the_same_kind_is_held_against_the_file() {
    let header = header_of(&ModelSpec::by_name("resnet32").unwrap());
    let hints = Hints { arch: Some("resnet20".into()), ..Hints::default() };
    let spec = identify(&header, &hints).unwrap().spec;
    let report = header.compare(&spec.plan().params, &spec.to_string()).to_string();
    let headline =
        "does not fit CIFAR ResNet-20, 10 classes (60 extra tensors):\n  extra layer1.3.conv1.weight [16, 16, 3, 3]";
    assert!(report.starts_with(headline), "{report}");
}

#[test]
fn senseless_hints_are_refused() {
    let header = header_of(&ModelSpec::by_name("vit_small32").unwrap());
    let refuse = |hints: Hints| identify(&header, &hints).unwrap_err().to_string();
    for heads in [0, 5, 1 << 40] {
        let hints = Hints { heads: Some(heads), ..Hints::default() };
        assert_eq!(refuse(hints), format!("{heads} heads do not divide a width of 96"));
    }
    assert!(refuse(Hints { arch: Some("resnet21".into()), ..Hints::default() }).starts_with("no network is called"));
    assert!(refuse(Hints { eps: Some(-1.0), ..Hints::default() }).contains("eps"));
    let classes = Some(vec!["cat".to_string()]);
    assert!(refuse(Hints { classes, ..Hints::default() }).contains("1 class names for a network of 10 classes"));
}

#[test]
fn a_json_beside_the_weights_is_read_first_and_flags_complete_it() {
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().join("w.safetensors");
    assert_eq!(Hints::beside(&weights).unwrap(), Hints::default());
    std::fs::write(folder.path().join("w.json"), r#"{"heads": 8, "norm": "post", "act": "relu"}"#).unwrap();
    let flags = Hints { heads: Some(4), normalize: Some("cifar".into()), ..Hints::default() };
    let hints = Hints::beside(&weights).unwrap().or(flags);
    assert_eq!((hints.heads, hints.norm, hints.act), (Some(8), Some(NormPlace::Post), Some(Act::Relu)));
    assert_eq!(hints.normalize.as_deref(), Some("cifar"));
    for (text, part) in
        [("{\"head\": 8}", "unknown field `head`"), ("[", "EOF"), ("{\"norm\": \"mid\"}", "unknown variant")]
    {
        std::fs::write(folder.path().join("w.json"), text).unwrap();
        let message = Hints::beside(&weights).unwrap_err().to_string();
        assert!(message.contains("w.json") && message.contains(part), "{message}");
    }
}

#[test]
fn hostile_shapes_do_not_overflow() {
    let huge = usize::MAX / 2;
    let shapes = |names: &[&str]| names.iter().map(|n| (n.to_string(), vec![huge, 0, huge, huge])).collect::<Vec<_>>();
    let resnet = ["conv1.weight", "layer1.0.conv1.weight", "layer18446744073709551615.0.conv1.weight", "fc.weight"];
    let vit = ["patch_embed.proj.weight", "pos_embed", "blocks.18446744073709551615.attn.qkv.weight", "head.weight"];
    let mobilenet = ["features.0.0.weight", "features.1.conv.0.0.weight", "classifier.1.weight"];
    let cnn = ["conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight"];
    for names in [&resnet[..], &vit, &mobilenet, &cnn] {
        let header = Header::from_shapes("w.safetensors", shapes(names));
        if let Ok(found) = identify(&header, &Hints::default()) {
            assert!(!header.compare(&found.spec.plan().params, "it").is_fit());
        }
    }
}

#[test]
fn published_networks_are_identified() {
    let Some(data) = data() else { return };
    let torch = |heads, norm, act| Hints { heads: Some(heads), norm: Some(norm), act: Some(act), ..Hints::default() };
    let cifar = Hints { normalize: Some("cifar".into()), ..torch(8, NormPlace::Post, Act::Relu) };
    let unit = Hints { normalize: Some("unit".into()), ..torch(4, NormPlace::Pre, Act::Gelu) };
    for (file, hints, want, normalize, params) in [
        ("resnet20_cifar10", Hints::default(), "CIFAR ResNet-20, 10 classes", "imagenet", 269_722),
        ("resnet32_cifar10", Hints::default(), "CIFAR ResNet-32, 10 classes", "imagenet", 464_154),
        ("resnet56_cifar10", Hints::default(), "CIFAR ResNet-56, 10 classes", "imagenet", 853_018),
        (
            "vit_small_cifar10",
            cifar,
            "ViT, width 128, 6 blocks, 8 heads, post-norm, relu, patch 4, 10 classes",
            "cifar",
            811_146,
        ),
        (
            "vit_tiny_cifar10",
            unit,
            "ViT, width 64, 4 blocks, 4 heads, pre-norm, gelu, patch 4, 10 classes",
            "unit",
            208_074,
        ),
        ("mnist_cnn", Hints::default(), "MNIST CNN [8, 16, 24], 10 classes", "0.1307/0.3081", 376_870),
    ] {
        let header = Header::read(data.join(format!("models/{file}.safetensors"))).unwrap();
        let (spec, norm) = identify(&header, &hints).unwrap().settled().unwrap();
        assert_eq!((spec.to_string().as_str(), norm.as_str()), (want, normalize));
        let plan = spec.plan();
        assert_eq!(header.compare(&plan.params, want).to_string(), format!("fits {want}"));
        assert_eq!(plan.params.n_trained(), params);
    }
    let header = Header::read(data.join("models/stories260K.safetensors")).unwrap();
    let stories = TextSpec::by_name("stories260k").unwrap();
    assert_eq!(read(&header), stories.clone().into());
    assert_eq!(header.compare(&stories.plan().params, "").to_string(), "fits ");
    assert_eq!(stories.plan().params.n_trained(), 260_032);
    let header = Header::read(data.join("models/roberta_base_lora_mnli.safetensors")).unwrap();
    let message = identify(&header, &Hints::default()).unwrap_err().to_string();
    assert!(message.contains("these look like a LoRA adapter's tensors (roberta.encoder.layer.0"), "{message}");
    let header = Header::read(data.join("nerf/chair_lowres_mlp.safetensors")).unwrap();
    let message = identify(&header, &Hints::default()).unwrap_err().to_string();
    assert!(message.contains("a radiance field's"), "{message}");
}

#[test]
fn networks_know_their_names() {
    for name in [
        "resnet8",
        "resnet20",
        "resnet56_x0.5",
        "cifar_resnet50",
        "resnet10_x0.25",
        "resnet18_cifar",
        "resnet18_cifar_x0.171875",
        "resnet50",
        "mobilenet_v2",
        "mobilenet_v2_cifar_x0.5",
        "deit_tiny",
        "vit_small32",
        "mnist_cnn",
    ] {
        let mut spec = ModelSpec::by_name(name).unwrap();
        spec.set_classes(3);
        assert_eq!(spec.name().as_deref(), Some(name));
    }
    let other = vit(VitSpec { heads: 6, ..VitSpec::timm(32, 4, 96, 6, 3, 10) });
    assert_eq!(other.name(), None);
    let ModelSpec::ResNet(resnet) = ModelSpec::by_name("resnet18").unwrap() else { panic!("a ResNet was asked for") };
    assert_eq!(ModelSpec::ResNet(ResNetSpec { stages: vec![2, 2, 2, 3], ..resnet }).name(), None);
}

#[test]
fn hints_and_a_headless_header_give_the_network_back() {
    for name in
        ["resnet20_x0.5", "resnet18_cifar_x0.25", "resnet50", "mobilenet_v2_cifar_x0.35", "vit_small32", "mnist_cnn"]
    {
        let spec = ModelSpec::by_name(name).unwrap();
        let params = spec.plan().headless().params;
        let header = Header::from_shapes("w.safetensors", params.iter().map(|p| (p.name.clone(), p.shape.clone())));
        let hints = Hints { normalize: Some("cifar".into()), ..Hints::of(&spec) };
        let found = identify(&header, &hints).unwrap();
        assert_eq!(found.open, Vec::<&str>::new(), "{name}");
        assert_eq!(header.plan(&found.spec), spec.plan().headless(), "{name}");
        assert_eq!(header_of(&spec).plan(&spec), spec.plan(), "{name}");
        assert_eq!(spec.plan().headless().n_features(), spec.plan().n_features(), "{name}");
    }
}
