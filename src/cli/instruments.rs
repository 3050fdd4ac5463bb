//! `thermoscope instruments`

use super::device::Device;
use super::{bench, complain, presets, print};
use crate::error::{Error, Result};
use crate::instrument::registry;
use crate::train::Session;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  thermoscope instruments
  thermoscope instruments --measure grok        what each costs in that run, on this adapter")]
pub(super) struct Args {
    /// One JSON object for each metric
    #[arg(long)]
    json: bool,
    /// Instead of the list: what each instrument costs in a step of this run, and whether its card is right
    #[arg(long, value_name = "PRESET|FILE.toml")]
    measure: Option<String>,
    /// With --measure: change one setting; may be given many times
    #[arg(long, value_name = "KEY=VALUE", requires = "measure")]
    set: Vec<String>,
}

/// Replays of which the median counts.
const ROUNDS: u32 = 5;

pub(super) fn main(args: &Args, device: &Device) -> Result<()> {
    if let Some(name) = &args.measure {
        let setup = presets::load(name, &args.set)?;
        let gpu = device.open()?;
        complain(&format!("on {} ({})", gpu.caps().name, gpu.caps().backend));
        let session = Session::new(&gpu, setup.config)?;
        return bench::show_costs(name, &crate::bench::costs(&gpu, &session, ROUNDS)?, args.json);
    }
    for instrument in registry() {
        for card in instrument.cards() {
            if args.json {
                let mut value = serde_json::to_value(card).map_err(|error| Error::Unsupported(error.to_string()))?;
                value["instrument"] = instrument.name().into();
                print(&value.to_string());
            } else {
                print(&format!(
                    "{}\n  formula   {}\n  unit      {}\n  axes      {}\n  cost      {:?}\n  cadence   every {} step{} (instrument {})\n  control   {}\n  source    {}\n  not for   {}\n",
                    card.name,
                    card.formula,
                    card.unit,
                    card.axes,
                    card.cost,
                    card.every,
                    if card.every == 1 { "" } else { "s" },
                    instrument.name(),
                    card.control,
                    card.source,
                    card.not_for,
                ));
            }
        }
    }
    if !args.json {
        print(
            "Cost: F free (some 0.5 % of the step, all together 3 %), L light (at most 3 % at its cadence), M a forward pass of its own, H gradients of its own.\nCadences are proposals: what would take too much of a run's work is measured less often, unless measure.every sets it (see measure.budget)",
        );
    }
    Ok(())
}
