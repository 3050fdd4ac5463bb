//! `thermoscope instruments`

use super::print;
use crate::error::{Error, Result};
use crate::instrument::registry;

#[derive(clap::Args)]
pub(super) struct Args {
    /// One JSON object for each metric
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: &Args) -> Result<()> {
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
            "Cost: F free (at most 0.5 % of the step), L light (at most 3 % at its cadence), M a forward pass of its own, H gradients of its own",
        );
    }
    Ok(())
}
