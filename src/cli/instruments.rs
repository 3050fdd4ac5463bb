//! `thermoscope instruments`

use super::device::Device;
use super::{bench, complain, presets, print};
use crate::error::{Error, Result};
use crate::instrument::{Card, Instrument, check_name, names_of, registry};
use crate::landscape;
use crate::train::Session;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  thermoscope instruments
  thermoscope instruments ablation loss.test    formula, control, source ...
  thermoscope instruments --measure grok        what each costs in that run")]
pub(super) struct Args {
    /// Metrics or instruments of which to print everything; without any, a line for each there is
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// One JSON object for each metric
    #[arg(long)]
    json: bool,
    /// Instead of the list: what each instrument costs in a step of this run, and whether its card is right
    #[arg(long, value_name = "PRESET|FILE.toml", conflicts_with = "names")]
    measure: Option<String>,
    /// With --measure: change one setting; may be given many times
    #[arg(long, value_name = "KEY=VALUE", requires = "measure")]
    set: Vec<String>,
    #[command(flatten)]
    device: Device,
}

/// Replays of which the median counts.
const ROUNDS: u32 = 5;

pub(super) fn main(args: &Args) -> Result<()> {
    if let Some(name) = &args.measure {
        let setup = presets::load(name, &args.set)?;
        let gpu = args.device.open()?;
        complain(&format!("on {}", gpu.caps().called()));
        let session = Session::new(&gpu, setup.config)?;
        return bench::show_costs(name, &crate::bench::costs(&gpu, &session, ROUNDS)?, args.json);
    }
    if args.device.is_asked() {
        let what = "--adapter and --no-tune go with --measure: the list needs no device";
        return Err(Error::Config(what.to_owned()));
    }
    let all: Vec<&dyn Instrument> = registry().into_iter().map(|i| i as &dyn Instrument).collect();
    let looked = landscape::CARDS.iter().map(|card| card.name).chain([landscape::INSTRUMENT]);
    let known: Vec<&str> = names_of(&all).into_iter().chain(looked).collect();
    args.names.iter().try_for_each(|name| check_name(name, &known))?;
    let list = !args.json && args.names.is_empty();
    let families = all.iter().map(|instrument| (instrument.name(), instrument.cards()));
    for (instrument, cards) in families.chain([(landscape::INSTRUMENT, landscape::CARDS)]) {
        let wanted = |card: &&Card| {
            args.names.is_empty() || args.names.iter().any(|name| name == instrument || name == card.name)
        };
        let cards: Vec<&Card> = cards.iter().filter(wanted).collect();
        if list && !cards.is_empty() {
            print(&format!("instrument {instrument}"));
        }
        for card in cards {
            if args.json {
                let mut value = serde_json::to_value(card).map_err(|error| Error::Unsupported(error.to_string()))?;
                value["instrument"] = instrument.into();
                print(&value.to_string());
            } else if list {
                print(&line(card));
            } else {
                print(&whole(card, instrument));
            }
        }
    }
    if !args.json {
        print(
            "Cost: F free (some 0.5 % of the step, all together 3 %), L light (at most 3 % at its cadence), M a forward pass of its own,\nH gradients of its own. Cadences are proposals: what would take too much of a run's work is measured less often, unless\nmeasure.every sets it (see measure.budget). measure.off and measure.only take names of instruments and metrics",
        );
    }
    if list {
        print(
            "`thermoscope instruments NAME...` prints all about some: formula, axes, control, source, what it is not for",
        );
    }
    Ok(())
}

/// Columns of a terminal that a line of the list keeps within.
const WIDTH: usize = 118;

/// A card in a line: name, cost, cadence and as much of the formula as fits.
fn line(card: &Card) -> String {
    let every = if card.every == 0 { "off        ".to_owned() } else { format!("every {:<5}", card.every) };
    let start = format!("  {:30} {:?} {every} {}: ", card.name, card.cost, card.unit);
    let room = WIDTH.saturating_sub(start.chars().count());
    if card.formula.chars().count() <= room {
        return format!("{start}{}", card.formula);
    }
    let cut: String = card.formula.chars().take(room.saturating_sub(4)).collect();
    format!("{start}{} ...", cut.rsplit_once(' ').map_or(cut.as_str(), |(words, _)| words))
}

/// All that a card says.
fn whole(card: &Card, instrument: &str) -> String {
    let cadence = match card.every {
        0 => format!("off, unless measure.{instrument}.every sets one"),
        1 => "every step".to_owned(),
        every => format!("every {every} steps"),
    };
    let gradients = if card.gradients {
        "\n  needs     gradients: `measure` leaves it out unless measure.only names it"
    } else {
        ""
    };
    format!(
        "{}\n  formula   {}\n  unit      {}\n  axes      {}\n  cost      {:?}{gradients}\n  cadence   {cadence} (instrument {instrument})\n  control   {}\n  source    {}\n  not for   {}\n",
        card.name, card.formula, card.unit, card.axes, card.cost, card.control, card.source, card.not_for,
    )
}
