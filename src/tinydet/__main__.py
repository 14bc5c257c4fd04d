from tinydet.cli import main

main()
