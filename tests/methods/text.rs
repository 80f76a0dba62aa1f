//! Language models: against the forward pass in f64, published weights, gradients.

use leanvision::data::text::{Corpus, Tokenizer};
use leanvision::nn::text::{self, OutputKind, Score, Text, TextPool, TextSpec, TokenBatch, reference_tokens};
use leanvision::nn::{Hints, Model, ModelSpec, Weights, untrained};
use leanvision::ops::Act;
use leanvision::ops::rotary::Style;
use leanvision::{Runtime, Tensor};
use std::path::PathBuf;

use crate::support::compare::{Tolerance, compare};
use crate::support::runtime;

/// A small decoder: RMS norm, rotary positions, shared heads, a gated MLP.
fn llama(style: Style) -> TextSpec {
    let spec = TextSpec { positions: 64, ..TextSpec::llama2c(37, 24, 2, [6, 2], 40) };
    TextSpec { rotary: spec.rotary.map(|r| text::Rotary { style, ..r }), output: OutputKind::Own, ..spec }
}

/// A small GPT-2: layer norm, packed and transposed weights, a table of positions, the output tied.
fn gpt2() -> TextSpec {
    let spec = TextSpec { vocab: 41, positions: 24, heads: 3, kv_heads: 3, head_width: 8, ..TextSpec::gpt2(24, 2) };
    TextSpec { mlp: 52, classes: Some(3), ..spec }
}

/// A small BERT: norms behind the sums, segments, a pooler and a head.
fn bert() -> TextSpec {
    TextSpec { vocab: 33, positions: 20, mlp: 44, classes: Some(2), ..TextSpec::bert(20, 2, 4) }
}

fn models() -> [(&'static str, TextSpec); 5] {
    [
        ("llama, neighbours", llama(Style::Adjacent)),
        ("llama, halves", llama(Style::Halves)),
        ("gpt2", gpt2()),
        ("bert", bert()),
        ("bert of ReLU, mean", TextSpec { act: Act::Relu, pool: TextPool::Mean, pooler: false, ..bert() }),
    ]
}

/// Texts of 1 to 13 tokens.
fn texts(vocab: usize) -> Vec<Vec<u32>> {
    let ids = |n: usize, first: usize| (0..n).map(|i| ((i * i * 7 + first) % vocab) as u32).collect();
    vec![ids(13, 1), ids(1, 5), ids(7, 2), ids(12, 9)]
}

fn slices(texts: &[Vec<u32>]) -> Vec<&[u32]> {
    texts.iter().map(Vec::as_slice).collect()
}

fn model_of(runtime: &Runtime, spec: &TextSpec, seed: u64) -> (Model, Weights) {
    let spec = ModelSpec::from(spec.clone());
    let weights = untrained(&spec.plan().params, seed).unwrap();
    (Model::new(runtime, &spec, &weights).unwrap(), weights)
}

fn f64s(x: &Tensor) -> Vec<f64> {
    x.to_vec::<f32>().unwrap().into_iter().map(f64::from).collect()
}

/// By the largest value.
fn tolerance(values: &[f64], relative: f64) -> Tolerance {
    let largest = values.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    Tolerance { atol: relative * largest, rtol: 0.0, allowed: 0 }
}

#[test]
fn logits_are_those_of_the_reference() {
    let Some(runtime) = runtime() else { return };
    for (name, spec) in models() {
        let (model, weights) = model_of(&runtime, &spec, 3);
        let texts = texts(spec.vocab);
        let types: Option<Vec<u32>> = (spec.types > 0).then(|| (0..33).map(|i| u32::from(i % 3 == 1)).collect());
        let (features, logits) = reference_tokens(model.plan(), &weights, &slices(&texts), types.as_deref()).unwrap();
        let mut batch = TokenBatch::of(&runtime, &slices(&texts)).unwrap();
        batch.types = types.map(|types| Tensor::from_slice(&runtime, &types, &[33]).unwrap());
        let got = f64s(&model.token_features(&batch).unwrap());
        compare(&got, &features.data, tolerance(&features.data, 1e-5)).unwrap_or_else(|e| panic!("{name}: {e}"));
        match logits {
            Some(want) => {
                let got = f64s(&model.token_logits(&batch).unwrap());
                compare(&got, &want.data, tolerance(&want.data, 1e-5)).unwrap_or_else(|e| panic!("{name}: {e}"));
            }
            None => assert!(model.token_logits(&batch).unwrap_err().to_string().contains("ends in features")),
        }
    }
}

#[test]
fn padding_changes_no_text() {
    let Some(runtime) = runtime() else { return };
    for (name, spec) in models() {
        let (model, _) = model_of(&runtime, &spec, 4);
        let texts = texts(spec.vocab);
        let exact = TokenBatch::of(&runtime, &slices(&texts)).unwrap();
        let want = f64s(&model.token_features(&exact).unwrap());
        // Room for 6 texts of 50 tokens, none past 14: two are empty, 17 tokens of padding in sequences of 14 and 3.
        let roomy = TokenBatch::new(&runtime, 6, 50, 14).unwrap();
        let all: Vec<Text<'_>> = texts.iter().map(|ids| Text { ids, loss_from: 1 }).collect();
        assert_eq!(roomy.fill(&all, None).unwrap(), 33 - 4);
        let got = f64s(&model.token_features(&roomy).unwrap());
        assert!(got.iter().all(|v| v.is_finite()), "{name}: padding is not finite");
        compare(&got[..want.len()], &want, tolerance(&want, 1e-6)).unwrap_or_else(|e| panic!("{name}: {e}"));
        if spec.classes.is_some() {
            let (want, got) = (model.text_class_logits(&exact).unwrap(), model.text_class_logits(&roomy).unwrap());
            let (want, got) = (f64s(&want), f64s(&got));
            compare(&got[..want.len()], &want, tolerance(&want, 1e-6)).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
}

/// Cross-entropy in nats of each next token, over all texts.
fn reference_loss(plan: &leanvision::nn::Plan, weights: &Weights, texts: &[Vec<u32>]) -> f64 {
    let (_, logits) = reference_tokens(plan, weights, &slices(texts), None).unwrap();
    let logits = logits.unwrap();
    let vocab = logits.shape[1];
    let (mut at, mut sum, mut n) = (0, 0.0, 0);
    for text in texts {
        for (row, target) in (at..).zip(&text[1..]) {
            let row = &logits.data[row * vocab..(row + 1) * vocab];
            let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            sum += most + row.iter().map(|v| (v - most).exp()).sum::<f64>().ln() - row[*target as usize];
            n += 1;
        }
        at += text.len();
    }
    sum / f64::from(n)
}

#[test]
fn gradients_are_slopes_of_the_reference() {
    let Some(runtime) = runtime() else { return };
    let bert = TextSpec { output: OutputKind::Tied, pooler: false, classes: None, ..bert() };
    let gpt2 = TextSpec { classes: None, ..gpt2() };
    for (name, spec) in [("llama", llama(Style::Adjacent)), ("gpt2", gpt2), ("bert", bert)] {
        let (model, weights) = model_of(&runtime, &spec, 5);
        let texts = texts(spec.vocab);
        let leaves: Vec<Tensor> = model.named_params().map(|(_, t)| t.require_grad().unwrap()).collect();
        let over = model.with_params(leaves.clone()).unwrap();
        let batch = TokenBatch::new(&runtime, 5, 40, 13).unwrap();
        batch.fill(&texts.iter().map(|ids| Text { ids, loss_from: 1 }).collect::<Vec<_>>(), None).unwrap();
        let loss = over.token_loss(&batch).unwrap();
        let plan = model.plan();
        let want = reference_loss(plan, &weights, &texts);
        assert!((f64::from(loss.item::<f32>().unwrap()) / want - 1.0).abs() < 1e-5, "{name}: {loss:?} {want}");
        let found = loss.backward().unwrap();
        for (i, (param, leaf)) in plan.params.iter().zip(&leaves).enumerate() {
            let d = found.of(leaf).unwrap_or_else(|| panic!("{name}: no gradient for {}", param.name));
            let d = param.to_published(&d.to_vec::<f32>().unwrap());
            assert!(d.iter().all(|v| v.is_finite()), "{name}: {}", param.name);
            // The steepest element, and one by the way.
            let steepest = (0..d.len()).max_by(|a, b| d[*a].abs().total_cmp(&d[*b].abs())).unwrap();
            for at in [steepest, i * 7919 % d.len()] {
                let step = 1e-3_f32;
                let shifted = |sign: f32| {
                    let mut values: Vec<Vec<f32>> = weights.iter().cloned().collect();
                    values[i][at] += sign * step;
                    let moved = f64::from(values[i][at]);
                    (reference_loss(plan, &Weights::new(&plan.params, values).unwrap(), &texts), moved)
                };
                let ((up, above), (down, below)) = (shifted(1.0), shifted(-1.0));
                let want = (up - down) / (above - below);
                let error = (f64::from(d[at]) - want).abs();
                let largest = f64::from(d[steepest].abs());
                // Central differences err by the third derivative times 1e-6 / 6.
                assert!(
                    error < 1e-4 * want.abs() + 2e-4 * largest + 1e-7,
                    "{name}: {} {at}: {} {want}",
                    param.name,
                    d[at]
                );
            }
        }
    }
}

#[test]
fn recomputed_blocks_give_the_same_gradients() {
    let Some(runtime) = runtime() else { return };
    let (model, _) = model_of(&runtime, &llama(Style::Halves), 6);
    let texts = texts(37);
    let batch = TokenBatch::of(&runtime, &slices(&texts)).unwrap();
    let gradients = |recompute: bool| {
        let leaves: Vec<Tensor> = model.named_params().map(|(_, t)| t.require_grad().unwrap()).collect();
        let over = model.with_params(leaves.clone()).unwrap();
        let over = over.training(leanvision::nn::Training::new(0.1, recompute));
        let found = over.token_loss(&batch).unwrap().backward().unwrap();
        leaves.iter().flat_map(|leaf| f64s(found.of(leaf).unwrap())).collect::<Vec<_>>()
    };
    let (want, got) = (gradients(false), gradients(true));
    compare(&got, &want, tolerance(&want, 1e-6)).unwrap();
}

/// The folder of real data, or one printed line.
fn data() -> Option<PathBuf> {
    let folder = std::env::var_os("LEANVISION_DATA").map(PathBuf::from).filter(|p| p.is_dir());
    if folder.is_none() {
        eprintln!("skipped: LEANVISION_DATA names no folder");
    }
    folder
}

#[test]
fn stories_score_as_they_should() {
    let (Some(runtime), Some(data)) = (runtime(), data()) else { return };
    let (spec, weights) = text::load(&data.join("models/stories260K.safetensors"), &Hints::default()).unwrap();
    assert_eq!(spec, TextSpec::by_name("stories260k").unwrap());
    let tokenizer = Tokenizer::load(&data.join("models/tok512.bin")).unwrap();
    tokenizer.check_fits(spec.vocab).unwrap();
    let model = Model::new(&runtime, &spec.into(), &weights).unwrap();
    let corpus = Corpus::load(&data.join("text/e2e"), 0, 0.0).unwrap();
    let first = &corpus.train[..500];
    let ids: Vec<Vec<u32>> = first.iter().map(|r| tokenizer.encode(&r.text).unwrap()).collect();
    let texts: Vec<Text<'_>> = ids.iter().map(|ids| Text { ids, loss_from: 1 }).collect();
    let scores = text::score(&runtime, &model, &texts, 2048).unwrap();
    let all = Score::of(&scores);
    let n_bytes: usize = first.iter().map(|r| r.text.len()).sum();
    assert_eq!(all.tokens, 34_675);
    // Published beside the data by an independent implementation.
    assert!((all.nats_per_token() - 3.8748).abs() < 5e-4, "{}", all.nats_per_token());
    assert!((all.bits_per_byte(n_bytes) - 3.376).abs() < 5e-4, "{}", all.bits_per_byte(n_bytes));
}
