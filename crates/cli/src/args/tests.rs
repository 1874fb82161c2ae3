//! Layers of settings, and that the README and the files in configs/ say what the commands know.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;

use super::*;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn parse_line(line: &[&str]) -> Result<Command, String> {
    parse(line.iter().map(OsString::from)).map_err(|error| error.to_string())
}

fn serve(line: &[&str]) -> ServeArgs {
    match parse_line(&[&["rootstock", "serve"], line].concat()) {
        Ok(Command::Serve(args)) => args,
        other => panic!("{other:?}"),
    }
}

/// A settings file with `text` and the flags that name it.
fn config(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("settings.toml");
    std::fs::write(&path, text).unwrap();
    (dir, path.to_str().unwrap().to_owned())
}

/// `# key = value` as `key = value`; anything else as it is.
fn uncommented(line: &str) -> &str {
    let key_and_value = line
        .strip_prefix("# ")
        .filter(|rest| rest.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')));
    key_and_value.unwrap_or(line)
}

/// Long names of all options of a command.
fn flags(subcommand: &str) -> BTreeSet<String> {
    let command = command();
    let arguments = command.find_subcommand(subcommand).unwrap().get_arguments();
    let longs = arguments.filter_map(|arg| arg.get_long().map(str::to_owned));
    longs.filter(|long| long != "help").collect()
}

#[test]
fn the_definition_is_sound() {
    command().debug_assert();
}

#[test]
fn a_file_sets_what_no_flag_does() {
    let (_dir, path) = config("port = 9000\nkv-memory = \"2GiB\"\nno-prefix-cache = true\napi-key = [\"a\", \"b\"]\n");
    let args = serve(&["--config", &path, "--port", "9001"]);
    assert_eq!(args.port, 9001);
    assert_eq!(args.run.kv_memory, ByteSize(2 << 30));
    assert!(args.no_prefix_cache);
    assert_eq!(args.api_key, ["a", "b"]);
    assert_eq!(args.max_num_seqs, 64);
}

#[test]
fn a_flag_may_build_on_what_the_file_sets() {
    let (_dir, path) = config("model = \"m\"\nadapter = \"a\"\nchat = true\n");
    let line = [
        "rootstock",
        "generate",
        "--config",
        &path,
        "--adapter-scale",
        "-0.5",
        "--system",
        "s",
    ];
    let Ok(Command::Generate(args)) = parse_line(&line) else {
        panic!()
    };
    assert_eq!((args.adapter_scale, args.chat), (-0.5, true));
}

#[test]
fn an_unknown_key_is_refused_by_name() {
    let (_dir, path) = config("prot = 9000\n");
    let error = parse_line(&["rootstock", "serve", "--config", &path]).unwrap_err();
    assert!(
        error.contains("unknown key `prot`") && error.contains("settings.toml"),
        "{error}"
    );
}

#[test]
fn a_bad_value_names_file_and_key() {
    for text in [
        "port = \"high\"",
        "port = true",
        "no-prefix-cache = 1",
        "kv-memory = \"much\"",
    ] {
        let (_dir, path) = config(text);
        let error = parse_line(&["rootstock", "serve", "--config", &path]).unwrap_err();
        let key = text.split(' ').next().unwrap();
        assert!(error.contains("settings.toml") && error.contains(key), "{error}");
    }
}

#[test]
fn a_missing_or_malformed_file_is_named() {
    let error = parse_line(&["rootstock", "serve", "--config", "nowhere.toml"]).unwrap_err();
    assert!(error.contains("nowhere.toml"), "{error}");
    let (_dir, path) = config("port = ");
    let error = parse_line(&["rootstock", "serve", "--config", &path]).unwrap_err();
    assert!(error.contains("settings.toml"), "{error}");
}

#[test]
fn a_switch_that_takes_a_value_is_a_boolean_of_the_file_and_nothing_else_is() {
    let finetune = |text: &str| {
        let (_dir, path) = config(text);
        parse_line(&["rootstock", "finetune", "--config", &path])
    };
    let Ok(Command::Finetune(args)) = finetune("packing = true\ngradient-checkpointing = false\nlora-r = 4\n") else {
        panic!()
    };
    assert!(args.data.packing && args.training.gradient_checkpointing == Some(false));
    assert_eq!(args.adapter.lora_r, 4);
    let error = finetune("output = true\n").unwrap_err();
    assert!(error.contains("`output`: expected a text"), "{error}");
}

#[test]
fn olives_command_line_of_finetune_is_taken_as_it_is() {
    let line = [
        "rootstock finetune --method qlora --model_name_or_path meta-llama/Llama-3.2-1B --trust_remote_code --output_path models/tuned",
        "--data_name xxyyzzz/phrase_classification --max_steps 100 --log_level 1 --task_name text-generation",
        "--train_split train[:4096] --eval_split train[4096:4224] --per_device_train_batch_size 1 --per_device_eval_batch_size 2",
        "--logging_steps 5 --eval_steps 20 --save_steps 40 --logging_dir logs --report_to tensorboard",
        "--gradient_checkpointing true --gradient_accumulation_steps 16 --learning_rate 1e-4 --lr_scheduler_type cosine",
        "--lora_r 16 --lora_alpha 64 --target_modules q_proj v_proj --text_template",
    ]
    .join(" ");
    let template = "### Question: {prompt}\n### Answer: {response}";
    let words: Vec<_> = line.split(' ').chain([template]).collect();
    let Ok(Command::Finetune(args)) = parse_line(&words) else {
        panic!("{:?}", parse_line(&words));
    };
    assert_eq!((args.method, args.trust_remote_code), (Method::Qlora, true));
    assert_eq!(args.model.as_deref(), Some("meta-llama/Llama-3.2-1B"));
    assert_eq!(args.output.as_deref(), Some(Path::new("models/tuned")));
    let (data, adapter, training, records) = (&args.data, &args.adapter, &args.training, &args.records);
    assert_eq!(
        data.data_name.as_deref(),
        Some(Path::new("xxyyzzz/phrase_classification"))
    );
    assert_eq!(data.text_template.as_deref(), Some(template));
    let slice = |text: &str| text.parse::<rootstock_train::dataset::Slice>().unwrap();
    assert_eq!(data.train_split, slice("train[:4096]"));
    assert_eq!(data.eval_split, Some(slice("train[4096:4224]")));
    assert_eq!((adapter.lora_r, adapter.lora_alpha), (16, 64.0));
    assert_eq!(adapter.target_modules, ["q_proj", "v_proj"]);
    assert_eq!(
        (training.max_steps, training.gradient_accumulation_steps),
        (Some(100), 16)
    );
    assert!(training.gradient_checkpointing == Some(true) && training.learning_rate == 1e-4);
    assert_eq!(
        (
            training.per_device_train_batch_size,
            training.per_device_eval_batch_size
        ),
        (1, 2)
    );
    assert_eq!(training.lr_scheduler_type, "cosine");
    assert_eq!(
        (records.logging_steps, records.eval_steps, records.save_steps),
        (5, 20, 40)
    );
    assert_eq!(
        (records.report_to, records.logging_dir.as_deref()),
        (ReportTo::Tensorboard, Some(Path::new("logs")))
    );
}

#[test]
fn every_option_of_a_set_up_has_its_variable() {
    let command = command();
    let serve = command.find_subcommand("serve").unwrap();
    for (option, variable) in [("port", "ROOTSTOCK_PORT"), ("kv_memory", "ROOTSTOCK_KV_MEMORY")] {
        let arg = serve.get_arguments().find(|arg| arg.get_id() == option).unwrap();
        assert_eq!(arg.get_env().unwrap(), variable);
    }
}

#[test]
fn every_file_in_configs_is_for_a_command_and_parses() {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(Path::new(ROOT).join("configs")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        parse_line(&["rootstock", &name, "--config", path.to_str().unwrap()]).unwrap();
        // What is commented out must be right, too.
        let text = std::fs::read_to_string(&path).unwrap();
        let (_dir, path) = config(&text.lines().map(uncommented).collect::<Vec<_>>().join("\n"));
        parse_line(&["rootstock", &name, "--config", &path]).unwrap();
        names.insert(name);
    }
    assert_eq!(
        names,
        [
            "chat", "compare", "eval", "extract", "finetune", "generate", "merge", "quantize", "search", "serve"
        ]
        .map(str::to_owned)
        .into()
    );
}

#[test]
fn every_recipe_parses_and_the_demo_is_made_of_the_others() {
    let recipes = Path::new(ROOT).join("models/recipes");
    for entry in std::fs::read_dir(&recipes).unwrap() {
        let path = entry.unwrap().path();
        parse_line(&["rootstock", "finetune", "--config", path.to_str().unwrap()]).unwrap();
    }
    let demo = recipes.join("demo.toml");
    let Ok(Command::Finetune(args)) = parse_line(&["rootstock", "finetune", "--config", demo.to_str().unwrap()]) else {
        panic!()
    };
    let names: Vec<_> = args.tasks.iter().map(|task| task.name.as_str()).collect();
    assert_eq!(names, ["spam-filter", "moby-dick"]);
    let moby_dick = &args.tasks[1].args;
    assert_eq!(
        moby_dick.output.as_deref(),
        Some(Path::new(".rootstock/demo/moby-dick"))
    );
    assert!(moby_dick.data.packing && moby_dick.training.max_steps == Some(30));
}

#[test]
fn a_flag_wins_over_what_a_task_sets_and_a_tasks_key_over_the_files() {
    let (_dir, path) =
        config("output = \"o\"\nlora-r = 4\nseed = 1\n[[task]]\nname = \"a\"\nlora_r = 8\nmax-steps = 9\n");
    let line = ["rootstock", "finetune", "--config", &path, "--max-steps", "2"];
    let Ok(Command::Finetune(args)) = parse_line(&line) else {
        panic!()
    };
    let task = &args.tasks[0].args;
    assert_eq!(
        (task.adapter.lora_r, task.training.seed, task.training.max_steps),
        (8, 1, Some(2))
    );
    assert_eq!(
        (args.adapter.lora_r, task.output.as_deref()),
        (4, Some(Path::new("o/a")))
    );
}

#[test]
fn a_point_of_a_search_space_takes_the_place_of_the_files_value() {
    let text = "lora-r = 4\nlearning-rate = 1.0\n[search]\nseed = 7\ntrials = 3\n[search_space.lr_scheduler_type]\ntype = \"choice\"\n\
                values = [\"cosine\"]\n[search_space.r]\ntype = \"int\"\nlow = 1\nhigh = 2\n";
    let (_dir, path) = config(text);
    let Ok(Command::Search(args)) = parse_line(&["rootstock", "search", "--config", &path]) else {
        panic!()
    };
    assert_eq!((args.search_seed, args.trials, args.finetune.training.seed), (7, 3, 42));
    let space = args.space.unwrap();
    assert_eq!(
        space.dimensions.keys().collect::<Vec<_>>(),
        ["lora-r", "lr-scheduler-type"]
    );
    assert_eq!(space.fixed["learning-rate"], "1");
    assert!(!space.fixed.contains_key("lora-r") && !space.fixed.contains_key("trials"));
    let point = [("lora-r", 2.into()), ("lr-scheduler-type", "cosine".into())];
    let trial = space
        .at(&point.map(|(name, value)| (name.to_owned(), value)).into())
        .unwrap();
    assert_eq!(
        (trial.adapter.lora_r, trial.training.lr_scheduler_type.as_str()),
        (2, "cosine")
    );
    assert_eq!(trial.training.learning_rate, 1.0);
}

#[test]
fn the_readme_lists_exactly_the_flags_of_serve() {
    let readme = std::fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    let listed: BTreeSet<_> = readme
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `--")?.split(['`', ' ']).next()?.to_owned()))
        .collect();
    assert_eq!(listed, flags("serve"));
}

/// Flags of a command and those below it.
fn every_flag(command: &clap::Command) -> BTreeSet<String> {
    let own = command
        .get_arguments()
        .filter_map(|arg| arg.get_long().map(str::to_owned));
    let below = command.get_subcommands().flat_map(every_flag);
    own.chain(below).collect()
}

#[test]
fn data_takes_the_flags_of_finetune_and_olives_spelling() {
    let line = "rootstock data check --model_name_or_path m --data_name a.jsonl --text_template {a} --max_seq_len 8 --train_split train[:5] --eval_split test";
    let args = match parse_line(&line.split(' ').collect::<Vec<_>>()) {
        Ok(Command::Data(DataCommand::Check(args))) => args,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        (args.source.text_template.as_deref(), args.source.max_length),
        (Some("{a}"), Some(8))
    );
    assert_eq!(args.train_split, "train[:5]".parse().unwrap());
    assert_eq!(args.eval_split, Some("test".parse().unwrap()));
    let command = command();
    let check = command
        .find_subcommand("data")
        .and_then(|data| data.find_subcommand("check"))
        .unwrap();
    let own = ["help", "json", "lines", "truncate"];
    let shared = check
        .get_arguments()
        .filter_map(clap::Arg::get_long)
        .filter(|flag| !own.contains(flag));
    let finetune = flags("finetune");
    for flag in shared {
        assert!(finetune.contains(flag), "--{flag}");
    }
}

#[test]
fn every_command_and_flag_in_the_readme_exists() {
    let readme = std::fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    let commands: Vec<_> = readme.lines().filter(|line| line.starts_with("rootstock ")).collect();
    assert!(commands.len() > 5, "{commands:?}");
    for line in commands {
        let command = line.split('#').next().unwrap();
        // Every second piece is within quotes.
        let pieces = command.split('\'').enumerate();
        let words = pieces.flat_map(|(index, piece)| match index % 2 {
            0 => piece.split_whitespace().collect(),
            _ => vec![piece],
        });
        parse_line(&words.collect::<Vec<_>>()).unwrap_or_else(|error| panic!("README.md: {line}\n{error}"));
    }
    let known = every_flag(&command());
    for mention in readme.split("`--").skip(1) {
        let flag = mention
            .split(|c: char| c != '-' && !c.is_ascii_alphanumeric())
            .next()
            .unwrap();
        assert!(flag == "help" || known.contains(flag), "README.md: --{flag}");
    }
}
