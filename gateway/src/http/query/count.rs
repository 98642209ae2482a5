//! The query string of a count.

use super::narrowing::{Narrowed, Narrowing};
use super::{BadParameter, Given, Parameter, bad_value, integer, parameters, set, unknown};
use crate::cluster::CountQuery;
use crate::page::groups::GroupBy;

/// Groups shown where the request does not say how many.
pub(in crate::http) const DEFAULT_TOP: usize = 100;

/// The most groups shown.
pub(in crate::http) const MOST_TOP: usize = 1000;

/// Parameters that a count takes, in the order they are documented.
pub(in crate::http) const COUNT: [&str; 18] = [
    "clientid",
    "username",
    "zone",
    "proto_name",
    "proto_ver",
    "ip_address",
    "conn_state",
    "clean_start",
    "_like_clientid",
    "_like_username",
    "_gte_created_at",
    "_lte_created_at",
    "_gte_connected_at",
    "_lte_connected_at",
    "_group_by",
    "_top",
    "_partial",
    "_node",
];

/// What a count is asked for.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::http) struct CountRequest {
    /// For the cluster.
    pub(in crate::http) query: CountQuery,
    /// Whether an answer that lacks nodes is welcome.
    pub(in crate::http) partial: bool,
}

/// Reads the query string of a count.
pub(in crate::http) fn count(query: &str) -> Result<CountRequest, BadParameter> {
    let mut narrowing = Narrowing::default();
    let (mut group_by, mut top) = (None, None);
    for parameter in parameters(query, &COUNT)? {
        let Some(Parameter { name, value }) = narrowing.take(parameter)? else { continue };
        let bad = |expected: &str| bad_value(name, &value, expected);
        match name {
            "_group_by" => {
                let field = GroupBy::from_name(&value);
                set(&mut group_by, name, field.ok_or_else(|| bad(&fields()))?)?;
            }
            "_top" => {
                let most = integer(&value).and_then(|most| usize::try_from(most).ok());
                let most = most.filter(|most| (1..=MOST_TOP).contains(most));
                set(&mut top, name, most.ok_or_else(|| bad("an integer from 1 to 1000"))?)?;
            }
            // Every name is one of COUNT, all of which stand above or were taken.
            _ => return Err(unknown(name.to_owned(), &COUNT)),
        }
    }
    if top.is_some() && group_by.is_none() {
        return Err(BadParameter::TopWithoutGroups);
    }
    let Narrowed { filter, scope, partial } = narrowing.given(Given::default());
    let query = CountQuery { filter, group_by, top: top.unwrap_or(DEFAULT_TOP), scope };
    Ok(CountRequest { query, partial: partial.unwrap_or(true) })
}

fn fields() -> String {
    let names: Vec<&str> = GroupBy::ALL.into_iter().map(GroupBy::name).collect();
    format!("one of {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::{LIST, list};
    use super::*;
    use crate::cluster::Scope;

    #[test]
    fn a_count_is_asked_for_what_it_says() {
        let all = count("").unwrap();
        let default = CountQuery {
            filter: rollcall_proto::v1::Filter::default(),
            group_by: None,
            top: 100,
            scope: Scope::All,
        };
        assert_eq!(all, CountRequest { query: default, partial: true });
        for group_by in GroupBy::ALL {
            let request = count(&format!("_group_by={}&_top=1000", group_by.name())).unwrap();
            assert_eq!((request.query.group_by, request.query.top), (Some(group_by), 1000));
        }
        assert_eq!(count("_top=1&_group_by=node").unwrap().query.top, 1);
    }

    #[test]
    fn clients_are_chosen_as_in_a_list() {
        let others = ["_page", "_cursor", "_limit", "_sort", "_order", "_fields"];
        let shared: Vec<&str> = LIST.into_iter().filter(|name| !others.contains(name)).collect();
        assert_eq!(
            COUNT.into_iter().filter(|name| !["_group_by", "_top"].contains(name)).collect::<Vec<_>>(),
            shared
        );
        for name in shared {
            let value = match name {
                "ip_address" => "::1",
                "conn_state" => "idle",
                "clean_start" | "_partial" => "false",
                _ => "7",
            };
            let query = format!("{name}={value}");
            let (counted, listed) = (count(&query).unwrap(), list(&query, Given::default()).unwrap());
            assert_eq!(
                (counted.query.filter, counted.query.scope, counted.partial),
                (listed.query.filter, listed.query.scope, listed.partial),
                "{query}"
            );
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_by_name_value_and_expectation() {
        let mut table = String::new();
        for query in [
            "_group_by=",
            "_group_by=clientid",
            "_group_by=zone,node",
            "_group_by=zone&_group_by=zone",
            "_group_by=zone&_top=0",
            "_group_by=zone&_top=-1",
            "_group_by=zone&_top=1001",
            "_group_by=zone&_top=99999999999999999999",
            "_group_by=zone&_top=",
            "_group_by=zone&_top=1&_top=1",
            "_top=5",
            "_limit=1",
            "_page=1",
            "_fields=node",
            "proto_ver=x",
            "_node=",
            "_partial=no",
        ] {
            table += &format!("{query}\n  {}\n", count(query).unwrap_err());
        }
        insta::assert_snapshot!(table);
    }
}
