//! `rollcall context`: gateways by name, as kubectl has clusters.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::arguments::{Context as Command, GatewayFlags};
use crate::context::file::{Context, Contexts};
use crate::context::{Environment, Secret, base, config_path};
use crate::exit::{Exit, Failure};
use crate::output::table::{Cell, Columns};
use crate::output::{look, print, say};

/// No key is longer.
const MAX_KEY: u64 = 4096;

pub(super) fn run(
    command: Command,
    flags: &GatewayFlags,
    environment: &Environment,
) -> Result<Exit, Failure> {
    let path = config_path(flags, environment)?;
    let mut contexts = Contexts::read(&path)?;
    match command {
        Command::List => list(&contexts)?,
        Command::Use { name } => {
            if !contexts.contexts.contains_key(&name) {
                return Err(contexts.unknown(&name));
            }
            contexts.current = Some(name);
            contexts.write(&path)?;
        }
        Command::Set { name, key_stdin } => {
            set(contexts.contexts.entry(name.clone()).or_default(), flags, key_stdin)?;
            if contexts.contexts[&name].url.is_none() {
                return Err(Failure::Usage(format!("context {name:?} is new, expected --url URL")));
            }
            contexts.current.get_or_insert(name);
            contexts.write(&path)?;
        }
        Command::Remove { name } => {
            if contexts.contexts.remove(&name).is_none() {
                return Err(contexts.unknown(&name));
            }
            contexts.current = contexts.current.filter(|current| *current != name);
            contexts.write(&path)?;
        }
    }
    Ok(Exit::Whole)
}

fn list(contexts: &Contexts) -> Result<(), Failure> {
    let titles = ["current", "name", "url", "key", "ca"].map(str::to_owned);
    let rows: Vec<Vec<Cell>> = contexts
        .contexts
        .iter()
        .map(|(name, context)| {
            let is_current = contexts.current.as_ref() == Some(name);
            let key = match (&context.key_file, &context.key) {
                (Some(file), _) => file.display().to_string(),
                (None, Some(_)) => "(kept here)".to_owned(),
                (None, None) => String::new(),
            };
            let ca = context.ca.as_ref().map(|ca| ca.display().to_string()).unwrap_or_default();
            let star = if is_current { "*" } else { "" }.to_owned();
            [star, name.clone(), context.url.clone().unwrap_or_default(), key, ca]
                .map(|text| Cell::of("", Some(&text.into())))
                .into()
        })
        .collect();
    if rows.is_empty() {
        say("there is no context: rollcall context set NAME --url URL makes one");
        return Ok(());
    }
    let columns = Columns::fit(&titles, &rows, look(false));
    let mut out = String::new();
    columns.header(&mut out);
    columns.rows(&rows, &mut out);
    Ok(print(&out)?)
}

fn set(context: &mut Context, flags: &GatewayFlags, key_stdin: bool) -> Result<(), Failure> {
    if let Some(url) = &flags.url {
        base(url).map_err(Failure::Usage)?;
        // Its key was for another gateway.
        if context.url.as_ref().is_some_and(|before| before != url) {
            *context = Context { ca: context.ca.take(), ..Context::default() };
        }
        context.url = Some(url.clone());
    }
    if let Some(file) = &flags.key_file {
        let file = absolute(file)?;
        Secret::read(&file).map_err(|error| Failure::Local(format!("{}: {error}", file.display())))?;
        (context.key_file, context.key) = (Some(file), None);
    }
    if key_stdin {
        let mut text = String::new();
        std::io::stdin()
            .lock()
            .take(MAX_KEY)
            .read_to_string(&mut text)
            .map_err(|error| Failure::Local(format!("stdin: {error}")))?;
        let key = Secret::new(&text).map_err(|why| Failure::Usage(format!("stdin: {why}")))?;
        (context.key, context.key_file) = (Some(key), None);
    }
    if let Some(file) = &flags.ca {
        context.ca = Some(absolute(file)?);
    }
    Ok(())
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::Local(format!("{}: {error}", path.display())))
}
