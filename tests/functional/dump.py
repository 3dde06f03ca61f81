#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Dumps of real servers, loaded back into real servers by the companion: whole, a table, from a hostile guest.

dump.py STILLPOINT DUMP-DRIVER
"""

import os
import pathlib
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from support.scratch import run, scratch_directory, unwind_on_signals, wait_until  # noqa: E402
from support.servers import MariaDb, PostgreSql  # noqa: E402

PROGRAM = DRIVER = None
TIME_LIMIT = 120

POSTGRESQL_SCHEMA = """
CREATE ROLE app LOGIN PASSWORD 'secret' CONNECTION LIMIT 7;
CREATE ROLE "of fice" NOLOGIN SUPERUSER;
GRANT "of fice" TO app;
CREATE DATABASE shop OWNER app;
\\c shop
CREATE SCHEMA archive AUTHORIZATION app;
CREATE TABLE orders (id bigserial PRIMARY KEY, what text);
ALTER TABLE orders OWNER TO app;
CREATE TABLE archive.orders (id int, what text);
CREATE TABLE notes (id int PRIMARY KEY, "order" bigint REFERENCES orders, said text);
CREATE VIEW recent AS SELECT * FROM orders WHERE id > 10;
CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql AS $$
-- Name: orders; Type: TABLE; Schema: public; Owner: app
SELECT $1 * 2 $$;
INSERT INTO orders (what) SELECT 'thing ' || g FROM generate_series(1, 500) g;
INSERT INTO archive.orders VALUES (1, 'old');
INSERT INTO notes SELECT g, g, E'-- Name: evil; Type: TABLE; Schema: public; Owner: app\\n\\\\restrict x\\nnote' FROM generate_series(1, 100) g;
"""

MARIADB_SCHEMA = """
CREATE DATABASE forum; USE forum;
CREATE TABLE posts (id INT PRIMARY KEY, said TEXT) ENGINE=InnoDB;
CREATE TABLE `we``ird` (id INT PRIMARY KEY, blobs BLOB) ENGINE=InnoDB;
INSERT INTO posts SELECT seq, CONCAT('-- Table structure for table `we``ird`\n', seq) FROM seq_1_to_500;
INSERT INTO `we``ird` VALUES (1, UNHEX('00ff10')), (2, NULL);
CREATE VIEW latest AS SELECT MAX(id) FROM posts;
DELIMITER ;;
CREATE TRIGGER loud BEFORE INSERT ON posts FOR EACH ROW BEGIN
-- what is said is said aloud for all
SET NEW.said = UPPER(NEW.said);
END;;
DELIMITER ;
CREATE FUNCTION twice(n INT) RETURNS INT RETURN n * 2;
"""


class Dumps(unittest.TestCase):
    scratch = None

    def stillpoint(self, *arguments, code=0, env=None):
        environment = {"PATH": os.environ["PATH"], "STILLPOINT_REPOSITORY": str(self.scratch / "repository"), **(env or {})}
        done = run([PROGRAM, *arguments], TIME_LIMIT, check=False, env=environment)
        self.assertEqual(done.returncode, code, done)
        return done

    @classmethod
    def store(cls, **dumps):
        named = [f"{name.replace('__', '/').replace('globals', '@globals')}={path}" for name, path in dumps.items()]
        return run([DRIVER, cls.scratch / "repository", "db", *named], TIME_LIMIT).stdout.strip()

    def write(self, name, text):
        path = self.scratch / name
        path.write_text(text, encoding="utf-8")
        return path

    def without_restriction(self, path):
        lines = path.read_text(encoding="utf-8").splitlines()
        return [line for line in lines if not line.startswith(("\\restrict", "\\unrestrict"))]


class OfPostgreSql(Dumps):
    @classmethod
    def setUpClass(cls):
        cls.source, cls.target = PostgreSql(cls.scratch, 1), PostgreSql(cls.scratch, 2)
        cls.addClassCleanup(cls.source.stop)
        cls.addClassCleanup(cls.target.stop)
        cls.source.sql(POSTGRESQL_SCHEMA)
        cls.text = cls.source.dump("shop", cls.scratch / "shop.sql")
        run(["pg_dumpall", "-d", cls.source.conninfo("postgres"), "--globals-only", "-f", cls.scratch / "globals.sql"], 60)
        cls.name = cls.store(postgresql__main__shop=cls.text, postgresql__main__globals=cls.scratch / "globals.sql")

    def into(self, database):
        self.target.sql(f"DROP DATABASE IF EXISTS {database}")
        self.target.sql(f"CREATE DATABASE {database}")
        return self.target.conninfo(database)

    def test_1_whole_with_roles(self):
        self.target.sql("CREATE ROLE \"of fice\" LOGIN CONNECTION LIMIT 3")
        into = self.into("shop")
        self.stillpoint("dump", self.name, "shop", "--into", into)
        again = self.target.dump("shop", self.scratch / "again.sql")
        self.assertEqual(self.without_restriction(again), self.without_restriction(self.text))
        roles = self.target.sql("SELECT rolname, rolcanlogin, rolconnlimit, rolsuper FROM pg_roles WHERE rolname !~ '^pg' ORDER BY 1")
        expected = ["app|f|-1|f", "of fice|t|3|f", "postgres|t|-1|t"]
        self.assertEqual(roles.split("\n"), expected, "roles are made by name alone, and one that is there is left as it is")
        # Not empty any more.
        done = self.stillpoint("dump", self.name, "shop", "--into", into, code=2)
        self.assertIn("is not empty", done.stderr)

    def test_2_a_table(self):
        into = self.into("rescue")
        self.stillpoint("dump", self.name, "shop", "--into", into, "--table", "public.orders")
        self.assertEqual(self.target.sql("SELECT count(*), max(what) FROM orders", "rescue"), "500|thing 99")
        tables = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        self.assertEqual(self.target.sql(tables, "rescue"), "orders")
        self.assertEqual(self.target.sql("SELECT count(*) FROM pg_index WHERE indrelid = 'orders'::regclass", "rescue"), "1")
        done = self.stillpoint("dump", self.name, "shop", "--into", into, "--table", "orders", code=2)
        self.assertIn("has a table of that name", done.stderr)
        # Whatever its rows say.
        self.target.sql("CREATE TABLE orders (id bigint PRIMARY KEY)", self.into("rows") and "rows")
        text = self.stillpoint("dump", self.name, "shop", "--table", "notes").stdout
        self.assertEqual(text.count("\\nnote"), 100)
        self.assertNotIn("CREATE TABLE public.orders", text)
        self.assertIn("has no table evil", self.stillpoint("dump", self.name, "shop", "--table", "evil", code=4).stderr)

    def test_3_all_or_nothing(self):
        text = self.text.read_text(encoding="utf-8").replace("CREATE VIEW public.recent", "CREATE VIEW no.recent")
        name = self.store(postgresql__main__shop=self.write("broken.sql", text))
        into = self.into("half")
        done = self.stillpoint("dump", name, "shop", "--into", into, code=8)
        self.assertIn('schema "no" does not exist', done.stderr)
        self.assertEqual(self.target.sql("SELECT count(*) FROM pg_class WHERE relname = 'orders'", "half"), "0")

    def test_4_a_hostile_dump_runs_nothing_here(self):
        for number, command in enumerate((
            f"\\! touch {self.scratch}/owned", f"SELECT 1 \\! touch {self.scratch}/owned", f"\\o |touch {self.scratch}/owned",
            f"\\copy (SELECT 1) TO PROGRAM 'touch {self.scratch}/owned'", f"\\unrestrict x\n\\! touch {self.scratch}/owned",
            f"\\restrict x\n\\unrestrict x\n\\! touch {self.scratch}/owned",
        )):
            with self.subTest(command):
                name = self.store(postgresql__main__shop=self.write(f"hostile{number}.sql", f"CREATE TABLE t ();\n{command}\n"))
                self.stillpoint("dump", name, "shop", "--into", self.into("hostile"), code=8)
                self.assertFalse((self.scratch / "owned").exists())

    def test_6_killed_it_commits_nothing(self):
        """The client must not take the end of a killed companion for the end of the dump."""
        rows = "\n".join(f"{n}\t{'x' * 200}" for n in range(200000))
        text = f"CREATE TABLE big (id int, what text);\nCOPY big FROM stdin;\n{rows}\n\\.\n"
        name = self.store(postgresql__main__shop=self.write("big.sql", text))
        into = self.into("killed")
        with subprocess.Popen([PROGRAM, "-r", self.scratch / "repository", "dump", name, "shop", "--into", into]) as loader:
            wait_until(lambda: self.target.sql("SELECT count(*) FROM pg_stat_activity WHERE datname = 'killed' AND query LIKE 'COPY%'") != "0", 30, "rows are loaded", 0.01)
            loader.kill()
        wait_until(lambda: self.target.sql("SELECT count(*) FROM pg_stat_activity WHERE datname = 'killed'") == "0", 30, "the client ends")
        self.assertEqual(self.target.sql("SELECT count(*) FROM pg_class WHERE relname = 'big'", "killed"), "0")

    def test_5_what_is_wrong_is_said(self):
        for arguments, code, says in (
            (["shop", "--into", self.target.conninfo("nowhere")], 5, 'database "nowhere" does not exist'),
            (["shop", "--into", "x", "--to", "y"], 2, "cannot both be meant"), (["--into", "x"], 2, "which dump is not said"),
        ):
            with self.subTest(arguments):
                self.assertIn(says, self.stillpoint("dump", self.name, *arguments, code=code).stderr)
        empty = self.into("empty")
        done = self.stillpoint("dump", self.name, "shop", "--into", empty, code=3, env={"PATH": "/nonexistent"})
        self.assertIn("there is no program psql", done.stderr)


class OfMariaDb(Dumps):
    @classmethod
    def setUpClass(cls):
        cls.source, cls.target = MariaDb(cls.scratch, 1), MariaDb(cls.scratch, 2)
        cls.addClassCleanup(cls.source.stop)
        cls.addClassCleanup(cls.target.stop)
        cls.source.sql(MARIADB_SCHEMA)
        cls.text = cls.source.dump("forum", cls.scratch / "forum.sql")
        cls.name = cls.store(mariadb__default__forum=cls.text)
        # The client's own settings say which server.
        (cls.scratch / ".my.cnf").write_text(f"[client]\nsocket={cls.target.socket}\n", encoding="utf-8")
        cls.env = {"HOME": str(cls.scratch)}

    def into(self, database):
        self.target.sql(f"DROP DATABASE IF EXISTS {database}; CREATE DATABASE {database}")
        return database

    def test_1_whole_into_another_name(self):
        self.stillpoint("dump", self.name, "forum", "--into", self.into("copy"), env=self.env)
        again = self.target.dump("copy", self.scratch / "copy.sql").read_text(encoding="utf-8")
        self.assertEqual(again.replace("`copy`", "`forum`").replace("Database: copy", "Database: forum").replace("database 'copy'", "database 'forum'"),
                         self.text.read_text(encoding="utf-8"))
        self.assertEqual(self.target.sql("SHOW DATABASES LIKE 'forum'"), "")
        done = self.stillpoint("dump", self.name, "forum", "--into", "copy", code=2, env=self.env)
        self.assertIn("is not empty", done.stderr)

    def test_2_a_table(self):
        self.stillpoint("dump", self.name, "forum", "--into", self.into("rescue"), "--table", "we`ird", env=self.env)
        self.assertEqual(self.target.sql("SHOW TABLES", "rescue"), "we`ird")
        self.assertEqual(self.target.sql("SELECT id, HEX(blobs) FROM `we``ird`", "rescue"), "1\t00FF10\n2\tNULL")
        self.stillpoint("dump", self.name, "forum", "--into", "rescue", "--table", "posts", env=self.env)
        self.assertEqual(self.target.sql("SELECT COUNT(*) FROM posts", "rescue"), "500")
        self.assertIn("UPPER", self.target.sql("SHOW TRIGGERS", "rescue"))
        self.stillpoint("dump", self.name, "forum", "--into", "rescue", "--table", "posts", env=self.env, code=2)
        self.stillpoint("dump", self.name, "forum", "--table", "none", code=4)

    def test_3_a_hostile_dump_runs_nothing_here(self):
        for number, command in enumerate((
            f"\\! touch {self.scratch}/owned", f"system touch {self.scratch}/owned", f"SELECT 1; \\! touch {self.scratch}/owned",
            f"LOAD DATA LOCAL INFILE '{self.scratch}/forum.sql' INTO TABLE t", f"tee {self.scratch}/owned", f"source {self.scratch}/forum.sql",
        )):
            with self.subTest(command):
                text = f"CREATE TABLE t (what TEXT);\n{command};\n"
                name = self.store(mariadb__default__forum=self.write(f"hostile{number}.txt", text))
                self.stillpoint("dump", name, "forum", "--into", self.into("hostile"), code=8, env=self.env)
                self.assertFalse((self.scratch / "owned").exists())

    def test_4_no_such_database(self):
        done = self.stillpoint("dump", self.name, "forum", "--into", "nowhere", code=5, env=self.env)
        self.assertIn("Unknown database 'nowhere'", done.stderr)


def main():
    global PROGRAM, DRIVER
    PROGRAM, DRIVER = (os.path.abspath(path) for path in sys.argv[1:3])
    del sys.argv[1:3]
    unwind_on_signals()
    with scratch_directory() as scratch:
        scratch.chmod(0o755)
        Dumps.scratch = scratch
        run([PROGRAM, "--repository", scratch / "repository", "init"], TIME_LIMIT)
        unittest.main(verbosity=2)


main()
