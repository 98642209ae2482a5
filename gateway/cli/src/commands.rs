//! One file a command.

mod client;
mod clients;
mod completion;
mod context;
mod count;
mod export;
mod kick;
mod nodes;
mod top;

use crate::api::Api;
use crate::api::answer::Nodes;
use crate::arguments::{Arguments, Command};
use crate::context::{Environment, target};
use crate::exit::{Exit, Failure};
use crate::output::{missing, warn};

/// Carries out what was typed.
///
/// # Errors
/// It could not be.
pub(crate) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let Arguments { gateway: flags, command } = arguments;
    let environment = Environment::of_process();
    // These ask nobody.
    let command = match command {
        Command::Completion { shell } => return completion::run(shell),
        Command::Context(command) => return context::run(command, &flags, &environment),
        other => other,
    };
    let target = target(&flags, &environment)?;
    for warning in &target.warnings {
        warn(warning);
    }
    let asking = Asking { api: Api::new(target)?, partial_ok: flags.partial_ok };
    match command {
        Command::Nodes(nodes) => nodes::run(&asking, nodes).await,
        Command::Clients(clients) => clients::run(&asking, clients).await,
        Command::Client(client) => client::run(&asking, client).await,
        Command::Kick(kick) => kick::run(&asking, kick).await,
        Command::Count(count) => count::run(&asking, count).await,
        Command::Export(export) => export::run(&asking, export).await,
        Command::Top(top) => top::run(&asking, top).await,
        Command::Completion { .. } | Command::Context(_) => Ok(Exit::Whole),
    }
}

/// What every command that asks a gateway has.
struct Asking {
    api: Api,
    /// Whether an answer that lacks nodes will do.
    partial_ok: bool,
}

impl Asking {
    /// Names the nodes that an answer lacks, and says how a command that got it ends.
    fn completeness(&self, nodes: Option<&Nodes>) -> Exit {
        match nodes.and_then(missing) {
            None => Exit::Whole,
            Some(text) => {
                warn(&text);
                if self.partial_ok { Exit::Whole } else { Exit::NodesMissing }
            }
        }
    }
}
