//! Page 1 under every field, both ways, beside the default order. The first request under a field may have to sort;
//! those after it may find the work done.

use super::Bench;
use crate::measure::{Case, Measurement};
use crate::report::Section;
use crate::subject::Subject;

/// Live figures to sort by, as far as they are offered.
const LIVE: [&str; 2] = ["mqueue_len", "recv_oct"];

pub(crate) fn measure(bench: &Bench, subject: &Subject) -> Section {
    let mut cases = vec![Case::new("default order", subject, "/clients?_limit=100")];
    let fields = rollcall_tests::model::SORT_FIELDS.into_iter();
    let both = fields.flat_map(|field| [(field, "asc"), (field, "desc")]);
    for (field, order) in both.chain(LIVE.map(|field| (field, "desc"))) {
        let path = format!("/clients?_limit=100&_sort={field}&_order={order}");
        cases.push(Case::new(format!("{field} {order}"), subject, &path));
    }
    let mut measurement = Measurement::new(cases);
    measurement.rounds(&bench.load, bench.options.rounds);
    let first = measurement.figures[0].p50();
    let ratios: Vec<f64> = measurement.figures.iter().map(|figures| figures.p50() / first).collect();
    Section::of(&measurement, "x default", &ratios)
        .note("first ms: the first request ever under this order; the other figures are of those after it")
}
