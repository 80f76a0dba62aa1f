//! Language models read off names, shapes and what stands beside them.

use super::header_of;
use crate::nn::text::{self, OutputKind, Rotary, Sampling, TextFamily, TextPool, TextSpec};
use crate::nn::{Header, Hints, ModelSpec, identify, untrained};
use crate::ops::Act;
use crate::ops::rotary::Style;
use std::collections::BTreeMap;
use std::path::Path;

fn llama() -> TextSpec {
    let spec = TextSpec {
        family: TextFamily::Llama,
        prefix: "model.".into(),
        eps: 1e-6,
        ..TextSpec::llama2c(90, 48, 3, [6, 2], 80)
    };
    let rotary = Some(Rotary { base: 1e4, style: Style::Halves });
    TextSpec { rotary, output: OutputKind::Own, classes: Some(4), ..spec }
}

fn roberta() -> TextSpec {
    TextSpec {
        family: TextFamily::Roberta,
        prefix: "roberta.".into(),
        vocab: 120,
        positions: 34,
        first_position: 2,
        types: 1,
        eps: 1e-5,
        classes: Some(3),
        ..TextSpec::bert(48, 2, 6)
    }
}

#[test]
fn every_family_is_read_off_its_own_tensors() {
    let named = ["stories260k", "gpt2", "bert-base", "minilm-l6"].map(|name| TextSpec::by_name(name).unwrap());
    let prefixed = TextSpec { prefix: "transformer.".into(), ..TextSpec::gpt2(128, 2) };
    let classified = TextSpec { prefix: "bert.".into(), classes: Some(5), pooler: true, ..TextSpec::bert(32, 2, 4) };
    let bare = TextSpec { pooler: false, ..TextSpec::bert(32, 2, 4) };
    for spec in named.into_iter().chain([llama(), roberta(), prefixed, classified, bare]) {
        let hints = Hints { heads: Some(spec.heads), ..Hints::default() };
        let found = identify(&header_of(&spec.clone().into()), &hints).unwrap();
        assert_eq!(found.open, Vec::<&str>::new());
        // The context of rotary positions is in no tensor.
        let ModelSpec::Text(read) = found.spec else { panic!("{spec} is not read as a language model") };
        assert_eq!(TextSpec { positions: spec.positions, ..*read }, spec);
    }
}

#[test]
fn heads_stay_open_without_a_config() {
    let header = header_of(&llama().into());
    let found = identify(&header, &Hints::default()).unwrap();
    assert_eq!(found.open, ["--heads H"]);
    assert!(found.settled().unwrap_err().to_string().contains("these are a language model's tensors"));
}

fn write(folder: &Path, spec: &TextSpec) {
    let plan = spec.plan();
    let weights = untrained(&plan.params, 1).unwrap();
    weights.save(folder.join("model.safetensors"), &plan.params, &BTreeMap::new()).unwrap();
}

#[test]
fn a_config_completes_the_weights_or_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let load = || text::load(at, &Hints::default());
    let refuse = |config: &str| {
        std::fs::write(at.join("config.json"), config).unwrap();
        load().unwrap_err().to_string()
    };
    write(at, &llama());
    assert!(load().unwrap_err().to_string().contains("give --heads H"));
    let config = r#"{"num_attention_heads": 6, "num_key_value_heads": 2, "rope_theta": 500000.0, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 99, "hidden_act": "gelu_new", "rope_scaling": null, "torch_dtype": "float32"}"#;
    std::fs::write(at.join("config.json"), config).unwrap();
    let rotary = Some(Rotary { base: 5e5, style: Style::Halves });
    let want = TextSpec { eps: 1e-5, positions: 99, act: Act::GeluTanh, rotary, ..llama() };
    assert_eq!(load().unwrap().0, want);
    let together = r#""rope_theta": 1e4, "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}"#;
    std::fs::write(at.join("config.json"), config.replace(r#""rope_theta": 500000.0"#, together)).unwrap();
    assert_eq!(load().unwrap().0, want);
    for (config, part) in [
        (r#"{"num_attention_heads": 5}"#, "5 heads of 9 where model.layers.0.self_attn.o_proj.weight takes 48 values"),
        (r#"{"num_attention_heads": -1}"#, "num_attention_heads is -1, a whole number from 1 on wanted"),
        (r#"{"num_attention_heads": 6, "hidden_act": "quick"}"#, "hidden_act is \"quick\"; silu, gelu"),
        (r#"{"num_attention_heads": 6, "rope_scaling": {"rope_type": "llama3"}}"#, "only plain rotary positions"),
        (r#"{"num_attention_heads": 6, "rope_parameters": {"rope_type": "yarn"}}"#, "only plain rotary positions"),
        (r#"{"num_attention_heads": 6, "rope_parameters": {"full_attention": {}}}"#, "only plain rotary positions"),
        (
            r#"{"num_attention_heads": 6, "rope_parameters": {"rope_theta": "x"}}"#,
            "rope_theta is \"x\", a number wanted",
        ),
        (
            r#"{"num_attention_heads": 6, "rope_parameters": {"partial_rotary_factor": 0.5}}"#,
            "factor is 0.5: only heads",
        ),
        (r#"{"num_attention_heads": 6, "partial_rotary_factor": 0.25}"#, "factor is 0.25: only heads"),
        (r#"{"num_attention_heads": 6, "model_type": "gemma2"}"#, "model_type is \"gemma2\": its layers"),
        (r#"{"num_attention_heads": 6, "model_type": "granite"}"#, "model_type is \"granite\": its layers"),
        (r#"{"num_attention_heads": 6, "residual_multiplier": 0.22}"#, "residual_multiplier is 0.22: only 1"),
        (r#"{"position_embedding_type": "relative_key"}"#, "only absolute and rotary positions"),
        ("[]", "config.json"),
    ] {
        let message = refuse(config);
        assert!(message.contains(part) && !message.contains('\n'), "{config}: {message}");
    }
    // Everything that does not fit is named at once.
    let message = refuse(r#"{"num_attention_heads": 6, "vocab_size": 91, "intermediate_size": 81}"#);
    assert!(message.contains("(11 tensors)") || message.contains("11 mis-shaped"), "{message}");
    for part in ["model.embed_tokens.weight [90, 48], needed [91, 48]", "model.layers.2.mlp.down_proj.weight [48, 80]"]
    {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn what_nothing_uses_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    for (spec, unused) in [
        (TextSpec { vocab: 50, ..TextSpec::gpt2(64, 1) }, vec!["h.0.attn.bias"]),
        (TextSpec { vocab: 50, ..TextSpec::bert(64, 1, 8) }, vec!["cls.predictions.bias", "embeddings.position_ids"]),
    ] {
        let params = spec.plan().params;
        let shapes = params.iter().map(|p| (p.name.clone(), p.shape.clone()));
        let extra = unused.iter().map(|name| (name.to_string(), vec![3]));
        let header = Header::from_shapes(folder.path().join("w.safetensors"), shapes.chain(extra));
        let hints = Hints { heads: Some(spec.heads), ..Hints::default() };
        let read = TextSpec::from_header(&header, &hints).unwrap().unwrap().spec;
        assert!(unused.iter().all(|name| read.ignores(name)), "{unused:?}");
        assert!(params.iter().all(|p| !read.ignores(&p.name)));
    }
    let bert = TextSpec::bert(64, 1, 8);
    assert_eq!((bert.pool, bert.causal), (TextPool::First, false));
}

#[test]
fn names_and_sizes_are_those_of_the_papers() {
    for (name, n) in
        [("stories260k", 260_032), ("gpt2", 124_439_808), ("gpt2-medium", 354_823_168), ("minilm-l6", 22_713_216)]
    {
        assert_eq!(TextSpec::by_name(name).unwrap().plan().params.n_trained(), n, "{name}");
    }
    assert_eq!(TextSpec::by_name("GPT2_large").unwrap().width, 1280);
    assert!(TextSpec::by_name("gpt5").unwrap_err().to_string().contains("there are stories260k, gpt2"));
    let odd = TextSpec { kv_heads: 4, ..llama() };
    assert!(odd.check().unwrap_err().to_string().contains("6 heads cannot share 4"));
    let summary = ModelSpec::from(TextSpec::by_name("gpt2").unwrap()).plan().summary([1024, 1]).unwrap();
    assert_eq!(summary.params, 124_439_808);
    // 24 layers' products of 12 blocks, 12 width^2 a token, attention of 1024 tokens on half of them, and the logits.
    let (n, width) = (1024_u64, 768_u64);
    assert_eq!(summary.multiply_adds, n * 12 * (12 * width * width + n * width) + n * width * 50_257);
}

#[test]
fn sites_are_the_layers_of_blocks() {
    let sites = |spec: TextSpec| {
        let plan = spec.plan();
        plan.sites().into_iter().map(|s| (s.name, s.n_in, s.columns)).collect::<Vec<_>>()
    };
    let gpt2 = sites(TextSpec::gpt2(64, 2));
    assert_eq!(gpt2.len(), 12);
    assert_eq!(gpt2[2], ("h.0.attn.v".into(), 64, 128..192));
    assert_eq!(gpt2[5], ("h.0.mlp.c_proj".into(), 256, 0..64));
    let llama = sites(llama());
    assert_eq!(llama.len(), 21);
    assert_eq!(llama[1], ("model.layers.0.self_attn.k_proj".into(), 48, 0..16));
}

#[test]
fn sampling_that_no_kernel_holds_is_refused_early() {
    let with = |temperature, top_k| Sampling { temperature, top_k, ..Sampling::greedy(1) };
    for (temperature, top_k) in [(0.0, 0), (1e-6, 4096), (1.0, 5000)] {
        assert!(with(temperature, top_k).check(5000).is_ok(), "{temperature}, {top_k}");
    }
    for (temperature, top_k, part) in [
        (1e-7, 0, "a temperature of 1e-7, 0 or at least 1e-6 wanted"),
        (1.0, 4097, "the 4097 likeliest tokens, at most 4096 or all 5000 wanted"),
        (1.0, 5001, "the 5001 likeliest of 5000 tokens"),
    ] {
        let message = with(temperature, top_k).check(5000).unwrap_err().to_string();
        assert!(message.contains(part) && !message.contains('\n'), "{message}");
    }
}
