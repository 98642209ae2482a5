//! `rollcall count`

use super::Asking;
use crate::api::answer::Object;
use crate::arguments::{Count, Format};
use crate::exit::{Exit, Failure};
use crate::output::{Rows, print, say};

pub(super) async fn run(asking: &Asking, count: Count) -> Result<Exit, Failure> {
    let mut parameters = count.filter.parameters();
    parameters.extend(count.by.iter().map(|field| ("_group_by", field.clone())));
    parameters.extend(count.top.map(|most| ("_top", most.to_string())));
    let mut answer = asking.api.get("/client_counts", &parameters).await?;
    let total = answer.meta.count("count").unwrap_or(0);
    match (&count.by, count.output.format) {
        (None, Format::Table | Format::Wide) => print(&format!("{total}\n"))?,
        (None, format) => {
            let mut rows = Rows::new(&count.output, vec!["count".to_owned()]);
            if format != Format::Json {
                let mut row = Object::default();
                row.set("count", total.into());
                rows.page(&[row])?;
            }
            rows.end(&answer.meta)?;
        }
        (Some(by), format) => {
            let mut fields = vec!["value".to_owned(), "count".to_owned()];
            if matches!(format, Format::Table | Format::Wide) {
                fields[0].clone_from(by);
                for row in &mut answer.data {
                    let value = row.get("value").cloned().unwrap_or_default();
                    row.set(by, value);
                }
            }
            let mut rows = Rows::new(&count.output, fields);
            rows.page(&answer.data)?;
            rows.end(&answer.meta)?;
            let groups = |name: &str| answer.meta.get("groups")?.get(name)?.as_u64();
            if let (Some(all), Some(shown), Some(other @ 1..)) =
                (groups("total"), groups("shown"), groups("other"))
            {
                say(&format!(
                    "{shown} of {all} groups; the others have {other} of {total} clients, see --top"
                ));
            }
        }
    }
    Ok(asking.completeness(answer.meta.nodes().as_ref()))
}
