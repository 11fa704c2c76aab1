use super::*;

fn facts() -> BTreeMap<String, Value> {
    let text = |name: &str, value: Value| (name.to_string(), value);
    [
        text("checkpoint.parameters", Value::Int(33_063_168)),
        text("weights.bytes", Value::Int(132_252_672)),
        text("checkpoint.step", Value::Int(200_000)),
        text("samples[Tiger].steps", Value::Int(50)),
        text("checkpoint.val_acc", Value::Float(0.9731)),
        text("checkpoint.loss", Value::Null),
        text("generator.opset", Value::Int(18)),
    ]
    .into()
}

fn problems(text: &str) -> Vec<String> {
    let body = format!("---\nlicense: x\n---\n{text}");
    match check("card.md.hbs", &body, &facts(), "apache-2.0") {
        Ok(()) => vec![],
        Err(e) => std::iter::once(&e)
            .chain(e.others())
            .map(|e| {
                let place = e.place().unwrap();
                body[place.start..place.end].to_string()
            })
            .collect(),
    }
}

#[test]
fn a_typed_figure_that_a_fact_contradicts_is_found_where_it_stands() {
    for (text, typed) in [
        ("It has 22M parameters.", "22M"),
        ("a 22M-parameter model", "22M"),
        ("about 22 million trainable\nparameters", "22 million"),
        ("| parameters | 22M | `model.safetensors` |", "22M"),
        ("**Parameters:** 22,000,000", "22,000,000"),
        ("trained for 100k training steps", "100k"),
        ("The model file is 126.9 MB.", "126.9 MB"),
        ("`model.safetensors` | 529 MB", "529 MB"),
        ("an accuracy of 98.2 %", "98.2 %"),
        ("accuracy 0.99", "0.99"),
        ("loss: 0.05", "0.05"),
        ("exported with opset 17", "17"),
        ("released under the MIT license", "MIT"),
    ] {
        assert_eq!(problems(text), [typed], "{text}");
    }
}

#[test]
fn what_agrees_is_code_or_is_about_something_else_is_left_alone() {
    for text in [
        "33M parameters, or 33.1M parameters, 33,063,168 parameters, 33 million parameters",
        "{{thousands checkpoint.parameters}} parameters and {{x}}M parameters",
        "{{literal \"22M\" \"the teacher\"}} parameters",
        "132 MB of weights, 132.3 MB of weights, 126.1 MB file",
        "200k steps, 200,000 training steps, 50 Euler steps",
        "accuracy 97.3 %, accuracy: 0.973, an accuracy of .97",
        "Step 1: clone. step 3 of 4. evaluated every 1000 steps; seconds per 2 steps",
        "`--steps 12` and\n```sh\npython x.py --steps 12 steps\n12 steps\n```\n",
        "needs 2 GB of memory. Python 3.12 and 13 labels; 32x32 pixels; opset {{generator.opset}}",
        "[the paper](https://a.b/22M-parameters) says more",
        "published under {{project.license}}, or Apache-2.0",
    ] {
        assert_eq!(problems(text), [""; 0], "{text}");
    }
}

/// The facts of `facts`, and others that a card may be about.
fn more() -> BTreeMap<String, Value> {
    let mut all = facts();
    all.remove("samples[Tiger].steps");
    all.insert("checkpoint.loss".into(), Value::Float(0.0421));
    all.insert("checkpoint.epoch".into(), Value::Int(40));
    all.insert("report.fid".into(), Value::Float(12.34));
    all.insert("report.inception_score".into(), Value::Float(2.5));
    all.insert("checkpoint.config.image_size".into(), Value::Int(32));
    all
}

fn said(body: &str) -> Vec<String> {
    match check("card.md.hbs", body, &more(), "mit") {
        Ok(()) => vec![],
        Err(e) => std::iter::once(&e).chain(e.others()).map(|e| e.message().to_string()).collect(),
    }
}

#[test]
fn every_way_to_write_a_wrong_figure_is_refused() {
    for (text, typed) in [
        ("parameters (22M)", "22M"),
        ("param count: 22M", "22M"),
        ("a 22-million-parameter network", "22-million"),
        ("It has 22m parameters.", "22m"),
        ("a 22M model", "22M"),
        ("It has <b>22M</b> parameters.", "22M"),
        ("| figure | value |\n|---|---|\n| parameters | `22M` |", "22M"),
        ("3.3e8 parameters", "3.3e8"),
        ("FID score of 9.1", "9.1"),
        ("98 % top-1 accuracy", "98 %"),
        ("The accuracy reached 98%.", "98%"),
        ("an accuracy of more than 98%", "98%"),
        ("more than 98% accuracy", "98%"),
        ("The loss fell to 0.01.", "0.01"),
        ("The checkpoint of step 100000", "100000"),
        ("after epoch 50", "50"),
        ("opset version 17", "17"),
        ("The model file has 529 megabytes.", "529 megabytes"),
        ("This is Apache-2.0 licensed", "Apache-2.0"),
        ("trained for 100 000 steps", "100 000"),
        ("trained for 100\u{2009}000 steps", "100\u{2009}000"),
        ("trained for 100\u{202f}000 steps", "100\u{202f}000"),
        ("trained for 100&nbsp;000 steps", "100&nbsp;000"),
        ("an FID of 9,1", "9,1"),
        // and
        ("<table>\n<tr><td>parameters</td>\n<td><code>22M</code></td></tr>\n</table>", "22M"),
        ("| model | parameters | accuracy |\n|---|---|---|\n| tiny | 33M | 98 % |", "98 %"),
        ("| params (M) | 22 |", "22"),
        ("**22M** learnable *parameters*", "22M"),
        ("3.3 x 10^8 parameters", "3.3 x 10^8"),
        ("- Parameters — 22M", "22M"),
        ("# A [22M](config.json) parameter model", "22M"),
        ("The accuracy on the held-out set is 98 %.", "98 %"),
        ("loss after step 200000: 0.01", "0.01"),
        ("val_acc: 0.99", "0.99"),
        ("`accuracy=0.98`", "0.98"),
        ("opset-17", "17"),
        ("opset 19 or later", "19"),
        ("fewer than 30M parameters", "30M"),
        ("trained for 500 steps", "500"),
        ("pictures of 64x64 pixels", "64"),
        ("inception score: 3.1", "3.1"),
        ("22.000.000 parameters", "22.000.000"),
        ("the 529 MB of weights need 2 GB of memory", "529 MB"),
        ("> trained for\n> 100k steps", "100k"),
        ("License: [Apache-2.0](LICENSE)", "Apache-2.0"),
        ("The weights are Apache-2.0-licensed.", "Apache-2.0"),
        // in words
        ("It has twenty-two million parameters.", "twenty-two million"),
        ("a Twenty-Two-Million-parameter model", "Twenty-Two-Million"),
        ("trained for one hundred thousand steps", "one hundred thousand"),
        ("ninety-eight percent accuracy", "ninety-eight percent"),
        ("opset seventeen", "seventeen"),
        ("The weights have five hundred megabytes.", "five hundred megabytes"),
        ("| parameters | a million |", "a million"),
        // ranges
        ("20-25M parameters", "20-25M"),
        ("between 20 and 25 million parameters", "20 and 25 million"),
        ("20M to 25M parameters", "20M to 25M"),
        ("accuracy of 0.98-0.99", "0.98-0.99"),
        ("accuracy: 98–99 %", "98–99 %"),
        ("an accuracy between 98 % and 99 %", "98 % and 99 %"),
        ("The loss is 0.8 to 0.9.", "0.8 to 0.9"),
        ("The loss fell from 0.9 to 0.01.", "0.01"),
        ("twenty to twenty-five million parameters", "twenty to twenty-five million"),
        // headings
        ("## 22M parameters", "22M"),
        ("## Accuracy: 98 %", "98 %"),
        ("Trained for 100k steps\n======", "100k"),
        ("<h2>22M parameters</h2>", "22M"),
        ("## Parameters\n\n22M", "22M"),
        ("### FID\n\nabout 9.1", "9.1"),
    ] {
        let said = said(text);
        assert!(said.len() == 1 && said[0].starts_with(&format!("the template says `{typed}`, ")), "{text}: {said:?}");
    }
}

#[test]
fn no_way_to_write_what_is_true_or_about_something_else_is_refused() {
    let refused: Vec<(&str, Vec<String>)> = [
        "since 2024 parameters are tied",
        "as in the FID 2020 paper",
        "The function takes 3 parameters.",
        "2 parameters of the command line",
        "## 3 steps to use it",
        "8 steps a second",
        "Python 3.10 steps",
        "Two steps: 1. install 2. run",
        "It takes three parameters: 1. noise 2. time",
        "Two steps:\n1. install\n2. run",
        "three parameters:\n\n1. noise\n2. time",
        "It needs 16 GB of memory for the model.",
        "5 GB of disk for the checkpoint",
        "50 sampling steps",
        // and
        "over 30M parameters, more than 97 % accuracy, a loss below 0.05",
        "`33M` parameters, <b>33M</b> parameters, a 33-million-parameter model, 3.3e7 parameters, 33 063 168 parameters",
        "| model | parameters | accuracy |\n|---|---|---|\n| tiny | `33M` | 97.3 % |",
        "FID 12.3, an FID score of 12,34, opset version 18, opset 17 or later, after epoch 40",
        "The weights are 132.3 megabytes on disk.",
        "    22M parameters, in a block of code\n\n~~~\n22M parameters\n~~~\n\n<pre>\n22M parameters\n</pre>",
        "`draw(steps=12)` and `--steps 2000` set the steps",
        "1.2M parameters per block",
        "99.9 % top-5 accuracy",
        "the loss of 3 runs, and the accuracy of 13 labels",
        "1000 warmup steps, a checkpoint every 5000 steps, the first 10 epochs",
        "The model runs on a GPU with 16 GB.",
        "Memory needed by the model: 2 GB",
        "ResNet-18 parameters, 1.2.3 steps, 32x32 pixels, 3x loss",
        "The MIT license. Pictures by others are Apache-2.0 licensed.",
        "Epoch 3 of 10; Step 2: train it",
        "loss at step 200000: 0.042",
        // in words
        "thirty-three million parameters, a thirty-three-million-parameter model, two hundred thousand training steps",
        "two parameters, one step, three training steps of the plan, twelve epochs of waiting",
        "one of the twenty labels, hundreds of steps, forty-two is no figure of it, seventeen pictures",
        "The model was trained by three people in two weeks, twenty-four hours a day.",
        // ranges
        "30-35M parameters, between 33 and 34 million parameters, accuracy of 0.97-0.98, an accuracy between 97 % and 98 %",
        "Epochs 1-10 warm up. Repeat steps 3-5. In 2024-2025 parameters were tied; see pages 3-5 of the paper.",
        "The loss fell from 0.9 to 0.042. evaluated every 1000-2000 steps, the first 10-20 epochs",
        "takes 3-5 parameters, layers 4-6, `--steps 20-50`, 2-3x loss, 10 to 20 pictures",
        // headings
        "## 33M parameters\n\n## 3 steps to use it\n\n1. install\n\n## Parameters\n\n- 3 of them are tied\n\n## Epochs\n\n40",
        "## Parameters\n\n`model.safetensors` was measured with 22 threads, as said below",
    ]
    .into_iter()
    .map(|text| (text, said(text)))
    .filter(|(_, said)| !said.is_empty())
    .collect();
    assert!(refused.is_empty(), "{refused:#?}");
}

#[test]
fn the_figure_is_marked_where_it_stands_in_markup() {
    assert_eq!(problems("| parameters | **`22M`** |"), ["22M"]);
    assert_eq!(problems("<b>22M</b>&nbsp;parameters"), ["22M"]);
    assert_eq!(problems("é trained for 100\u{202f}000 steps"), ["100\u{202f}000"]);
    assert_eq!(problems("This is MIT licensed"), ["MIT"]);
}

#[test]
fn the_projects_own_cards_say_no_figure() {
    for card in [
        include_str!("../../../../templates/card.md.hbs"),
        include_str!("../../../../examples/full-size/templates/card.md.hbs"),
    ] {
        assert!(check("card.md.hbs", card, &facts(), "apache-2.0").is_ok());
    }
}
