//! The report of a search as one HTML file: the best trial, results by trial and over each parameter, all trials, what they have in
//! common.

use rootstock_report::page::{document, facts, heading, table, tiles};
use rootstock_report::quantity::{count, significant};

use super::Search;
use super::trial::State;
use crate::report::Sample;
use crate::report::page::samples;

/// What the page says beside the trials.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    /// Above it.
    pub title: &'a str,
    /// What the results are.
    pub metric: &'a str,
    /// Settings that all trials have, by name.
    pub settings: &'a [(String, String)],
    /// Answers of the base and of the best adapter.
    pub samples: &'a [Sample],
}

impl Search {
    /// The page. It needs nothing beside itself and runs nothing.
    pub fn html(&self, page: &Page<'_>) -> String {
        let mut body = String::new();
        self.headline(page.metric, &mut body);
        heading("Results", &mut body);
        for plot in std::iter::once(self.plot()).chain(self.plots()) {
            body.push_str(&plot.svg());
        }
        samples(page.samples, &mut body);
        heading("Trials", &mut body);
        table(&self.rows(), &mut body);
        heading("Settings of all trials", &mut body);
        facts(page.settings, &mut body);
        document(page.title, &body)
    }

    fn headline(&self, metric: &str, body: &mut String) {
        let best = self.best();
        let count_of = |state: State| {
            let trials = self.trials().iter().filter(|trial| trial.state == state).count();
            (trials > 0).then(|| count(trials as u64))
        };
        let known = [
            (metric, best.and_then(|best| best.result).map(significant)),
            ("best trial", best.map(|best| best.trial.to_string())),
            ("trials of the search", Some(count(self.planned() as u64))),
            ("finished", count_of(State::Finished)),
            ("pruned", count_of(State::Pruned)),
            ("failed", count_of(State::Failed)),
        ];
        tiles(known.into_iter().filter_map(|(name, value)| Some((name, value?))), body);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::search::{Direction, Parameters, Reports, SearchSettings, SearchSpace, Strategy, TrialEnd};

    #[test]
    fn a_page_has_a_plot_for_each_parameter_and_values_as_text() {
        let folder = tempfile::tempdir().unwrap();
        let hostile = "<script>\u{7}&\"";
        let dimensions = json!({
            "rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": true},
            "targets": {"type": "choice", "values": [hostile, ["q", "v"]]},
        });
        let space = SearchSpace::new(serde_json::from_value(dimensions).unwrap()).unwrap();
        let settings = SearchSettings {
            strategy: Strategy::Random { trials: 6, seed: 1 },
            direction: Direction::Minimize,
            pruning: None,
        };
        let mut search = Search::open(&folder.path().join("trials.jsonl"), &space, settings).unwrap();
        let objective = |number, _: &Parameters, _: &mut Reports<'_>| TrialEnd::Value(number as f64);
        search.run(objective, |_| Ok(())).unwrap();
        let page = Page {
            title: hostile,
            metric: "eval-loss",
            settings: &[("max-steps".to_owned(), hostile.to_owned())],
            samples: &[],
        };
        let html = search.html(&page);
        let options = roxmltree::ParsingOptions {
            allow_dtd: true,
            ..Default::default()
        };
        let document = roxmltree::Document::parse_with_options(&html, options).unwrap();
        let plots = document.descendants().filter_map(|node| node.attribute("aria-label"));
        let plots: Vec<_> = plots.collect();
        assert_eq!(
            plots,
            [
                "Results of trials, lower is better",
                "Results over rate",
                "Results over targets"
            ]
        );
        // A dot for each trial in each plot, and a row for each below its header, beside that of the one setting.
        let count = |name: &str| {
            document
                .descendants()
                .filter(|node| node.tag_name().name() == name)
                .count()
        };
        assert_eq!((count("circle"), count("tr"), count("script")), (3 * 6, 7 + 1, 0));
    }
}
