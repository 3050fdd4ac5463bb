//! What a chart needs beside and below its plot, so that nothing is cut and the page does not grow wider than a window.

use serde_json::{Value, json};

/// Width of the plots in pixels, and of the part left of them.
pub(super) const WIDTH: u32 = 820;
pub(super) const AXIS: u32 = 52;
/// What a legend beside the plot may take.
pub(super) const BESIDE: u32 = 190;
/// Pixels of a letter of a title's second lines and of a legend, about; of a legend's symbol and the gap behind its text.
const LETTER: f64 = 6.2;
const SYMBOL: f64 = 34.0;
/// Pixels from line to line.
const LINE: u64 = 14;
/// Title, axis and spacing of a chart.
const FRAME: u64 = 68;

/// A text in lines that a chart is wide enough for, between words where there are any.
fn lines(text: &str) -> Vec<String> {
    let most = (f64::from(WIDTH + AXIS) / LETTER) as usize;
    let (mut lines, mut line, mut count) = (Vec::new(), String::new(), 0);
    for word in text.split_whitespace() {
        let letters: Vec<char> = word.chars().collect();
        // A word that is longer than a line goes on in the next one.
        for (at, part) in letters.chunks(most).enumerate() {
            let gap = usize::from(at == 0 && count > 0);
            if count + gap + part.len() > most {
                lines.push(std::mem::take(&mut line));
                count = 0;
            } else if gap > 0 {
                line.push(' ');
                count += 1;
            }
            line.extend(part);
            count += part.len();
        }
    }
    lines.extend((count > 0).then_some(line));
    lines
}

/// A title, and what there is to say in smaller letters below it.
pub(super) fn title(title: &str, below: &str) -> Value {
    let mut all = lines(title);
    all.extend(lines(below));
    match all.as_slice() {
        [] => json!(""),
        [only] => json!(only),
        [first, rest @ ..] => json!({ "text": first, "subtitle": rest }),
    }
}

/// Where a legend of these names goes: beside the plot where they are few and short, else below it in as many columns as fit.
pub(super) fn legend(names: &[&str]) -> Value {
    let longest = names.iter().map(|name| name.chars().count()).max().unwrap_or(0) as f64 * LETTER + SYMBOL;
    if names.len() <= 10 && longest <= f64::from(BESIDE) {
        return json!({ "orient": "right", "columns": 1, "labelLimit": BESIDE });
    }
    let columns = columns(longest);
    json!({ "orient": "bottom", "columns": columns, "labelLimit": WIDTH / columns as u32, "rows": names.len().div_ceil(columns) })
}

fn columns(longest: f64) -> usize {
    ((f64::from(WIDTH) / longest) as usize).max(1)
}

/// The height of a chart, or of charts beside and below each other, about as it will be.
pub(super) fn tall(chart: &Value, in_a_row: usize) -> u64 {
    let charts = |key: &str| {
        chart[key].as_array().map(|charts| charts.iter().map(|chart| tall(chart, in_a_row)).collect::<Vec<_>>())
    };
    if let Some(below) = charts("vconcat") {
        below.iter().sum()
    } else if let Some(beside) = charts("hconcat") {
        beside.into_iter().max().unwrap_or(0)
    } else if let Some(panels) = charts("concat") {
        panels.iter().step_by(in_a_row).sum()
    } else {
        let below = chart["title"]["subtitle"].as_array().map_or(0, Vec::len) as u64;
        let legend = chart["layer"][0]["encoding"]["color"]["legend"]["rows"].as_u64().map_or(0, |rows| rows + 1);
        chart["height"].as_u64().unwrap_or(0) + FRAME + LINE * (below + legend)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_titles_are_put_in_lines_and_lose_nothing() {
        assert_eq!(title("Loss", ""), json!("Loss"));
        let formula = "change of the mean loss ".repeat(30) + &"x".repeat(400);
        let found = title("ablation.loss", &formula);
        assert_eq!(found["text"], "ablation.loss");
        let lines: Vec<&str> =
            found["subtitle"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
        assert!(lines.iter().all(|line| line.chars().count() <= 140), "{lines:?}");
        let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
        assert_eq!(letters(&lines.concat()), letters(&formula));
        let long = title(&"word ".repeat(60), "");
        assert!(
            long["text"].as_str().unwrap().len() < 150 && long["subtitle"].as_array().unwrap().len() == 2,
            "{long}"
        );
    }

    #[test]
    fn legends_of_long_or_many_names_stand_below() {
        assert_eq!(legend(&["loss.train", "loss.test"])["orient"], "right");
        let many: Vec<String> = (0..24).map(|head| format!("L{} H{}", head / 12, head % 12)).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let found = legend(&many);
        assert_eq!(
            (&found["orient"], found["columns"].as_u64().unwrap() * found["rows"].as_u64().unwrap() >= 24),
            (&json!("bottom"), true)
        );
        let long = "W_E: norm above a quarter of the largest of all that there are";
        assert_eq!(legend(&[long])["orient"], "bottom");
    }
}
